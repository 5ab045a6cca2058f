"""The user's command as what makes videos: `run -- COMMAND` in a process of its own, and what it left behind."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import launch
from ..errors import UsageError
from ..report.read import read as read_report
from ..report.record import PARTLY, Run
from ..report.summary import Totals
from ..settings import OPTIONS, Settings, flag
from ..values import switch
from .harness import SAID, Made, Maker
from .outputs import Snapshot, collected
from .points import ORIGINAL, Job, code, digest

_PLACEHOLDER = re.compile(r"\{(out|prompt|seed|steps)\}")
_SCRIPTS = (".py", ".sh", ".json", ".yaml", ".yml", ".toml")
"""Files in the command that are looked into, to know a changed one; not those that it writes."""


class Command(Maker):
    """The user's command, with placeholders; `steps`: what `{steps}` stands for where a method says nothing else."""

    def __init__(self, words: Sequence[str], steps: str | None = None, files: Sequence[str] = ()) -> None:
        """`files`: that its settings name. Raises UsageError for what cannot be run."""
        if not launch.startable(words[0], os.environ):
            raise UsageError(f"command not found: {words[0]}; check its name and PATH")
        if obstacle := launch.interpreter_of(words, os.environ).obstacle():
            raise UsageError(f"nothing can be patched: {obstacle}")
        self.words, self.steps, self.name = list(words), steps, shlex.join(words)
        self.tick: Callable[[], None] = lambda: None  # called while a run is under way
        if self.has("{steps}") and steps is None:
            raise UsageError("the command has {steps}: say by --steps N what it usually is")
        if steps is not None and not self.has("{steps}"):
            raise UsageError("--steps was given, but the command has no {steps}: write it where their number stands")
        # All that a run's output hangs on, as far as it can be seen from outside.
        read = [path for path in map(Path, words) if path.suffix in _SCRIPTS] + [Path(path) for path in files]
        contents = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in read if path.is_file()}
        self.fingerprint = digest(self.words, os.getcwd(), steps, contents, code(), metadata.version("torch"))

    def filled(self, out: str, prompt: str, seed: int, steps: str | None) -> list[str]:
        """Its words with placeholders filled, in one pass, so that a prompt with braces in it stays as it is."""
        values = {"out": out, "prompt": prompt, "seed": str(seed), "steps": str(steps)}
        return [_PLACEHOLDER.sub(lambda found: values[found[1]], word) for word in self.words]

    def has(self, placeholder: str) -> bool:
        """Whether it stands somewhere in the command."""
        return any(placeholder in word for word in self.words)

    def available(self, job: Job) -> str:
        able = "steps" not in job.point.instead or self.has("{steps}")
        return "" if able else "the command has no {steps} for it to fill"

    def make(self, job: Job, folder: Path) -> Made:
        """Run it. Raises UsageError."""
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
        folder.mkdir(parents=True)
        out, report = folder / "out", folder / "report.json"
        words = self.filled(str(out), job.prompt, job.seed, job.point.instead.get("steps", self.steps))
        if self.has("{out}/"):
            out.mkdir()
        before = None if self.has("{out}") else Snapshot(Path.cwd(), folder)
        ours = [sys.executable, "-m", "scope_patch", "run", *flags(job.point.settings), "--report", str(report)]
        status, cost = self._run([*ours, "--", *words], folder / SAID)
        if status:
            died = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
            raise UsageError(f"the command {died}")
        outputs = collected(out) if before is None else before.changed(out)
        if not outputs:
            where = "to {out}" if before is None else "that is new in the working directory; write {out} where it says"
            raise UsageError(f"the command wrote no video, picture or latents {where}")
        return Made(outputs, {**cost, **told(read_report(str(report)).run, job)})

    def _run(self, words: list[str], said: Path) -> tuple[int, dict[str, Any]]:
        """Exit code (negative: a signal), and what it cost. All it started ends with us."""
        begin = time.monotonic()
        with said.open("wb") as output:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                    self.tick()
                    time.sleep(0.2)
            except BaseException:
                _end(process)
                raise
        _, status, used = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 if sys.platform == "darwin" else 1024
        cost = {"wall": time.monotonic() - begin, "cpu": used.ru_utime + used.ru_stime, "rss": used.ru_maxrss * unit}
        return process.returncode, cost


def told(run: Run, job: Job) -> dict[str, Any]:
    """The numbers of a row that a run's record knows. Raises UsageError where nothing was patched."""
    if not run.applied:
        raise UsageError(f"nothing was patched in effect: {'; '.join(run.all_reasons)}")
    generations, totals = run.generations, Totals.of(run.generations, run.omitted)
    original = job.point.method == ORIGINAL  # its work is the host's own
    work = sum(plan["baseline"] if original else plan["work"] + plan.get("tightened", 0.0) for plan in totals.plans)
    remarks = dict.fromkeys(remark for each in generations for remark in each.remarks)
    return {
        "seconds": totals.seconds.total,
        "dit": totals.seconds.dit,
        "overhead": totals.seconds.overhead,
        "forwards": totals.forwards_run,
        "latent_frames": totals.slots_computed,
        "flops": work or None,
        "bytes": totals.memory,
        "memory": max((each.device_bytes_peak for each in generations), default=0) or None,
        "decisions": digest([["".join(s.modes), s.intervals, s.slots] for g in generations for s in g.segments]),
        "remarks": [*remarks, *(run.all_reasons if run.status == PARTLY else [])],
    }


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as options of `run`."""
    words = []
    for name, value in settings.items():
        option = flag(name)
        if OPTIONS[name].takes:
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
        elif switch(value, name):
            words.append(option)
        elif getattr(Settings, name) is not False:  # what is off by itself has no option for that
            words.append(f"--no-{option[2:]}")
    return words


def _end(process: subprocess.Popen[bytes]) -> None:
    """The command and all that it started, as Ctrl-C would, and after ten seconds for good."""
    with suppress(ProcessLookupError):
        for number in (signal.SIGINT, signal.SIGKILL):
            os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10.0)
                return
