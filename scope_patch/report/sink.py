"""Where a job's report goes: one file, to which every process adds each generation as it ends; on stderr a summary.

A process that is killed loses what it had not finished, and no more. Parts of a report are merged as they stand in the
file, so that nothing is lost that this version does not know.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..settings import JOB, Settings, variable
from . import summary
from .job import Job, turn
from .read import Node, generation_of, parse
from .record import ABSENCES, FIRST_KEPT, LAST_KEPT, NOT_APPLIED, SCHEMA, GenerationRecord, Run, Sums, absence, combined

logger = logging.getLogger("scope_patch")

Values = dict[str, Any]  # a report, or a part of one, as it stands in the file

NO_LOCKS = (
    "there are no file locks where the report is: of generations that ended at the same moment one may be missing"
)
UNFINISHED = "its process ended before it did"
_armed: list[Sink] = []
"""The one that tells of all generations of this process that nobody else asked for; empty before a host is imported."""
_memory: list[Values] = []  # in the speaker of a job without a report: what its own process did, as one report
_remembering = threading.Lock()


class Sink:
    """Tells the job's report of a run of this process. A report that cannot be written costs one warning."""

    def __init__(self, run: Run) -> None:
        self.run, self.job = run, Job.here()
        self._warned = self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        # What no file has got yet; hosts and reasons are the run's own.
        self.untold = Run(self.run.settings, self.run.hosts, self.run.reasons)

    def tell(self, ended: GenerationRecord | None = None) -> None:
        """A generation has ended, or there is something to say that is about none."""
        if self._closed:
            return
        if self._process != os.getpid():  # a fork: what its parent has to tell is the parent's
            self._begin()
        with self._lock:
            if ended is not None and ended.pid in (None, self._process):
                ended.device_bytes_peak = device_peak()
                self.untold.begin(ended)
            report = self.run.settings.report
            try:
                place = self.job.scratch() if report is None else Path(report)
                if place is not None:
                    add(place, self.job, self.untold.report)
                elif self.job.speaker == self._process:
                    with _remembering:
                        _memory[:] = [reduce(merged, [*_memory, self.untold.report])]
                self.untold = Run(self.run.settings, self.run.hosts, self.run.reasons)
            except (OSError, UsageError) as error:
                if not self._warned:
                    logger.warning("the report could not be written to %s (%s); no video is affected", report, error)
                self._warned = True

    def close(self) -> None:
        """The process ends, and with it whatever it has not finished."""
        for generation in self.run.generations:
            if not generation.ended and generation.pid == os.getpid():
                generation.error = UNFINISHED
                self.tell(generation)
        if _worth_telling(self.untold.report):
            self.tell()
        self._closed = True


def sink_of(run: Run) -> Sink | None:
    """What tells of a run, in the job's report or at the job's end; None where nobody would hear of it."""
    return Sink(run) if run.settings.report is not None or os.environ.get(JOB) else None


def arm(run: Run) -> Sink:
    """The sink of all generations of this process that nobody else asks for, until it ends."""
    sink = Sink(run)
    _armed.append(sink)
    atexit.register(sink.close)
    return sink


def begin(run: Run, job: str) -> None:
    """Leave the report of a job of which nothing is known yet. Raises UsageError when it cannot be written after all.

    That of an earlier run, if it stayed where it was, would be taken for this one's when nothing gets patched.
    """
    path = run.settings.report
    if path is not None:
        try:
            with turn(Path(path)) as (write, _):
                write(_text(run.report, job))
        except OSError as error:
            raise UsageError(f"--report {path} cannot be written ({error.strerror}); give another path") from None


def add(path: Path, job: Job, part: Values) -> None:
    """Add a part to a job's report; an earlier job's is replaced. Raises OSError, also where it is a later job's."""
    with turn(path) as (write, locked):
        there = load(path)
        if there is not None and job.is_before(there["job"]):
            raise OSError("a later job writes its own report there")
        made = merged(there, part) if there is not None and there["job"] == job.id else part
        if not locked:
            made = {**made, "reasons": list(dict.fromkeys([*made["reasons"], NO_LOCKS]))}
        write(_text(made, job.id))


def _text(values: Values, job: str) -> str:
    return json.dumps({**values, "job": job}, indent=1) + "\n"


def load(path: Path) -> Values | None:
    """A job's report as it stands in the file; None where there is none."""
    with suppress(OSError, ValueError, RecursionError):
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("schema") == SCHEMA and type(values.get("job")) is str:
            return values
    return None


def speak_at_exit(settings: Settings) -> None:
    """What `import scope_patch.auto` does before anything else, as `run` does it from outside.

    Unless a process above has done so, this one begins the job, and says at its end what became of it: after all that
    is registered later has ended its own, such as `multiprocessing` its workers.
    """
    if Job.here().speaker is not None:
        return
    process = os.getpid()
    os.environ[JOB] = f"{Job.here().id}:{process}"
    if settings.report is not None:
        os.environ[variable("report")] = settings.report  # of children, wherever they work
        with suppress(OSError, UsageError):  # it is said when there is something to lose
            add(Path(settings.report), Job.here(), Run(settings).report)
    before = stamp(settings.report)
    atexit.register(lambda: speak(before, True) if os.getpid() == process else None)


def speak(before: tuple[int, int] | None, imported: bool) -> None:
    """Say on stderr what became of the job: the last thing that its speaker does.

    Args:
        before: `stamp` of the report when the process began.
        imported: it has looked for a host; if it was not armed then, it has said why.
    """
    job, report = Job.here(), os.environ.get(variable("report")) or None
    path = job.scratch_of(os.getpid()) if report is None else Path(report)
    mine, there = [*_memory, *(sink.untold.report for sink in _armed)], load(path)
    taken = there is not None and there["job"] != job.id
    known = [] if there is None or taken else [there]
    told = reduce(merged, [*known, *mine, Run(Settings.resolve({}, os.environ)).report])
    if job.is_root:
        silent = imported and not mine and not _worth_telling(told)
    else:  # it has seen nothing, and neither have those that it started
        silent = not any(map(_worth_telling, mine)) and stamp(report or str(path)) == before
    if silent:
        return
    lines = summary.lines(parse(told).run, so_far=not job.is_root or job.goes_on())
    if taken:
        lines.append(f"  {report} is a later job's by now: what other processes of this one did is not known")
    with suppress(AttributeError, OSError, ValueError):  # no stderr, or a closed one: there is nobody to tell
        sys.stderr.write("\n".join(lines) + "\n")
    if report is None:
        with suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()


def device_peak() -> int:
    """Bytes that torch had allocated at the most on this process's accelerator, as it counts them; 0 without one."""
    torch = sys.modules.get("torch")
    ready = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return int(torch.cuda.max_memory_allocated()) if torch is not None and ready else 0


def stamp(path: str | None) -> tuple[int, int] | None:
    """What is another one when a file has been replaced; None where there is no file."""
    with suppress(OSError):
        found = os.stat(path or "")
        return found.st_ino, found.st_mtime_ns
    return None


def merged(there: Values, more: Values) -> Values:
    """A report of both; of many generations, those between the first and the last become sums.

    `more`: generations that have ended since, and of those who had them whatever is not about one generation. Raises
    UsageError where `there` cannot be read.
    """
    generations, ours, theirs = [dict(each) for each in there["generations"]], there["settings"], more["settings"]
    others = [f"{name} {value} (not {ours.get(name)})" for name, value in theirs.items() if ours.get(name) != value]
    remarks = [f"a generation ran under other settings: {', '.join(others)}"] if others and _told(there) else []
    for generation in more["generations"]:
        _add(generations, {**generation, "remarks": [*generation["remarks"], *remarks]})
    omitted = Sums()
    for each in (there, more):
        omitted.join(Node(each, "the report").get("omitted", Sums, Sums()))
    for old in generations[FIRST_KEPT:-LAST_KEPT]:
        omitted.add(generation_of(Node(old, "a generation")))
    del generations[FIRST_KEPT:-LAST_KEPT]
    hosts = dict.fromkeys(name for each in (there, more) for name in (each["host"] or "").split(", ") if name)
    made = {
        **there,
        "host": ", ".join(hosts) or None,
        "status": combined([each["status"] for each in (there, more) if _told(each)]),
        "settings": ours if _told(there) else theirs,
        "signal": more["signal"] or there["signal"],
        "generations": generations,
        **({"omitted": omitted.as_dict()} if omitted.generations else {}),
    }
    reasons = dict.fromkeys(reason for each in (there, more) for reason in each["reasons"] if reason not in ABSENCES)
    if not reasons and made["status"] == NOT_APPLIED:
        reasons = {absence(_told(made), made["host"]): None}
    return {**made, "reasons": list(reasons)}


def _worth_telling(values: Values) -> bool:
    """Whether it has generations, or a reason why there are none."""
    return _told(values) or any(reason not in ABSENCES for reason in values["reasons"])


def _told(values: Values) -> bool:
    """Whether it has generations, in full or in sums."""
    return bool(values["generations"] or values.get("omitted"))


def _add(generations: list[Values], new: Values) -> None:
    """One more; or more of one that another rank, which shares the DiT, has told of.

    The numbers of a generation of several ranks are the first's, what went otherwise than asked for is of all.
    """
    for k, old in enumerate(generations):
        if new["call"] and old["call"] == new["call"] and new["rank"] not in old["ranks"]:
            first, other = sorted((old, new), key=lambda each: each["rank"])
            generations[k] = {
                **first,
                **{name: list(dict.fromkeys([*first[name], *other[name]])) for name in ("reasons", "remarks")},
                "status": combined([first["status"], other["status"]]),
                "finished": first["finished"] and other["finished"],
                "error": first["error"] or other["error"],
                "ranks": sorted({*first["ranks"], *other["ranks"]}),
            }
            return
    generations.append(new)
