"""What happened, as plain data: filled in by the session, written as the report of design §6. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from ..settings import Settings

SCHEMA = 2
SCALES = "scales"


class Words(NamedTuple):
    """What is counted, for people."""

    step: str
    steps: str
    slots: str
    forwards: str
    kept: str


WORDS = {
    "": Words("iteration", "iterations", "latent frames", "DiT forwards", "velocities"),
    SCALES: Words("scale", "scales", "tokens", "passes of the blocks", "residuals"),
}
"""By what a segment's steps are: iterations of a denoise loop, or scales of an image."""
APPLIED, PARTLY, NOT_APPLIED = "applied", "partly", "not-applied"
ABSENCES = NOTHING_SEEN, NOT_STARTED, NO_LOOP = (
    "no process was seen to start a generation of a known host (none imported one, or our PYTHONPATH was dropped)",
    "no generation was started",
    "the pipeline ran, but no denoise loop was entered",
)
"""What is said of a run for want of anything better: no reason of its own, and void once another process knows more."""


def absence(generations: object, hosts: object) -> str:
    """Which of them it is, by whether there were generations, and hosts."""
    return NO_LOOP if generations else NOT_STARTED if hosts else NOTHING_SEEN


def combined(statuses: Iterable[str]) -> str:
    """Of a run or a job, out of its parts': "partly" where these differ; one that we do not know is passed on."""
    found = set(statuses)
    strange = sorted(found - {APPLIED, PARTLY, NOT_APPLIED})
    return strange[0] if strange else PARTLY if len(found) > 1 else found.pop() if found else NOT_APPLIED


@dataclass(frozen=True)
class Verified:
    """A skipped iteration that was run all the same.

    Attributes:
        expected: ||v^ - v|| / ||v|| by the error bound; None where it says nothing.
        error: the true one; None where it is no finite number.
        tightened: it was above the bound, and from then on at most so many skips in a row were allowed; else None.
    """

    iteration: int
    expected: float | None = None
    error: float | None = None
    tightened: int | None = None


@dataclass
class Segment:
    """One run of the denoise loop; a long video has several. Slots are latent frames, counted once a DiT call.

    Attributes:
        frames: latent frames that the loop denoises or reads.
        active: of every iteration, the bounds [start, end, ...] of the latent frames that are integrated.
        chunk: latent frames that are decided together on a host that decides chunk by chunk, else 0.
        slots: on such a host, of every iteration that ran, what was decided for each chunk from its interval's start
            on: C, P, R, or F for a clean chunk that is forwarded along.
        verified: skipped iterations that were run all the same, to compare.
        again: skipped iterations that were taken again, with velocities between those around them.
        steps: SCALES, or "" where iterations are those of a denoise loop.
    """

    iterations: int
    modes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    intervals: list[tuple[int, int]] = field(default_factory=list)
    slots_baseline: int = 0
    slots_computed: int = 0
    selective: bool = False
    note: str = ""
    frames: int = 0
    active: list[list[int]] = field(default_factory=list)
    chunk: int = 0
    slots: list[str] = field(default_factory=list)
    verified: list[Verified] = field(default_factory=list)
    again: int = 0
    steps: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For the report; what says nothing is left out."""
        values = {**asdict(self), "modes": "".join(self.modes), "intervals": [list(each) for each in self.intervals]}
        says = {"note": self.note, "chunk": self.chunk, "slots": self.chunk, "steps": self.steps}
        return {name: value for name, value in values.items() if says.get(name, True)}


def active_ranges(mask: Sequence[Sequence[bool]], frames: int = 1) -> list[list[int]]:
    """The bounds [start, end, start, end, ...] of what is set in each row of an update mask [iterations][slots], mostly
    one pair, in latent frames, of which a slot has `frames`.
    """
    padded = ((False, *row, False) for row in mask)
    return [[slot * frames for slot, (one, other) in enumerate(pairwise(row)) if one != other] for row in padded]


@dataclass
class Seconds:
    """Wall time: all of it, inside the host's DiT forwards, and in our own code."""

    total: float = 0.0
    dit: float = 0.0
    overhead: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.total + other.total, self.dit + other.dit, self.overhead + other.overhead)

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in asdict(self).items()}


@dataclass(eq=False)
class GenerationRecord:
    """One call of a pipeline.

    Attributes:
        applied: whether it ran under our decisions, from its beginning or in part; if not, `reasons` say why.
        planned: what was planned for each segment or input: work, of the host alone (`baseline`) and as planned, what
            verifying added to it (`tightened`), its `unit` ("flops", or "latent frames" where there is no cost model),
            the `target` that was aimed at.
        history_bytes_peak: the most that velocities took at once.
        replay_bytes_peak: the most that was kept at once to take skipped steps again.
        device_bytes_peak: the most that its process had allocated on its accelerator, as torch counts; 0 without one.
        frozen_bytes_peak: the most that keys and values of finished latent frames did.
        guards, forced: how often, by name: a decision that could not be carried out; forwards that are no denoise
            step's own.
        pid, rank: the process that it ran in, and its rank; None where it has none.
        ranks: in a job's report, those of the ranks that share the DiT which have told of it; the numbers are those of
            `rank`, the lowest.
        call: names the generation, alike on all ranks that share the DiT; "" where the DiT is one process's alone.
    """

    applied: bool = True
    reasons: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    forwards_run: int = 0
    forwards_skipped: int = 0
    seconds: Seconds = field(default_factory=Seconds)
    history_bytes_peak: int = 0
    replay_bytes_peak: int = 0
    device_bytes_peak: int = 0
    frozen_bytes_peak: int = 0
    guards: dict[str, int] = field(default_factory=dict)
    forced: dict[str, int] = field(default_factory=dict)
    signal: str | None = None
    planned: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    finished: bool = False
    error: str | None = None
    pid: int | None = None
    rank: int | None = None
    ranks: list[int] = field(default_factory=list)
    call: str = ""

    def switched_off(self, reason: str, narrowed: bool, iteration: int | None) -> None:
        """It runs unpatched from this iteration on (None: the last segment's next). `narrowed`: slots were left out."""
        self.applied = narrowed or self.forwards_skipped > 0
        if self.applied and self.segments:
            at = len(self.segments[-1].modes) if iteration is None else iteration
            reason = f"{reason} (unpatched from iteration {at} of segment {len(self.segments)} on)"
        self.reasons.append(reason)

    @property
    def status(self) -> str:
        """Whether it ran under our decisions, from its beginning to its end."""
        return NOT_APPLIED if not self.applied else PARTLY if self.reasons else APPLIED

    @property
    def ended(self) -> bool:
        """Whether it has returned or raised."""
        return self.finished or self.error is not None

    @property
    def patched(self) -> bool:
        """Whether it ran under our decisions: its numbers count."""
        return self.applied and bool(self.segments)

    def guard(self, name: str, times: int = 1) -> None:
        self.guards[name] = self.guards.get(name, 0) + times

    def remark(self, sentence: str) -> None:
        """Something the user should know, said once."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def force(self, name: str, forwards: int) -> None:
        self.forced[name] = self.forced.get(name, 0) + forwards

    def as_dict(self) -> dict[str, Any]:
        """For the report. Copies are made whole: another thread's generation may be under way."""
        ran, skipped, apart = self.forwards_run, self.forwards_skipped, ("applied", "forwards_run", "forwards_skipped")
        values = {name: copy(value) for name, value in vars(self).items() if name not in apart}
        return {
            "status": self.status,
            **values,
            "segments": [segment.as_dict() for segment in self.segments],
            "planned": [dict(plan) for plan in self.planned],
            "forwards": {"baseline": ran + skipped, "run": ran, "skipped": skipped},
            "seconds": self.seconds.as_dict(),
        }


@dataclass
class Sums:
    """Numbers over generations; all that a report has left of those that it omits.

    Attributes:
        generations, applied, unfinished: how many; `applied` are those that ran under our decisions.
        partly, refused: of `applied`, those that did so in part; those that did not at all.
        modes: iterations by C, P, R. This and the others are sums over `applied`, as in GenerationRecord and Segment.
    """

    generations: int = 0
    applied: int = 0
    unfinished: int = 0
    partly: int = 0
    refused: int = 0
    forwards_run: int = 0
    forwards_skipped: int = 0
    slots_baseline: int = 0
    slots_computed: int = 0
    modes: dict[str, int] = field(default_factory=lambda: dict.fromkeys("CPR", 0))
    seconds: Seconds = field(default_factory=Seconds)

    def add(self, generation: GenerationRecord) -> None:
        self.generations += 1
        self.unfinished += not generation.finished
        self.refused += not generation.applied
        if not generation.patched:
            return
        self.applied += 1
        self.partly += generation.status == PARTLY
        self.forwards_run += generation.forwards_run
        self.forwards_skipped += generation.forwards_skipped
        self.seconds += generation.seconds
        for segment in generation.segments:
            self.slots_baseline += segment.slots_baseline
            self.slots_computed += segment.slots_computed
            for mode in self.modes:
                self.modes[mode] += segment.modes.count(mode)

    def join(self, other: Sums) -> None:
        """Count all that another has counted."""
        for name, value in vars(other).items():
            if name != "modes":
                setattr(self, name, getattr(self, name) + value)
        for mode, count in other.modes.items():
            self.modes[mode] = self.modes.get(mode, 0) + count

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": self.seconds.as_dict()}


FIRST_KEPT, LAST_KEPT = 8, 24
"""Generations that a run keeps in full; a server makes videos without end, and its report is written after each."""


@dataclass
class Run:
    """Everything one `run`, `apply` or `patched` did."""

    settings: Settings
    hosts: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    generations: list[GenerationRecord] = field(default_factory=list)
    omitted: Sums = field(default_factory=Sums)

    def begin(self, generation: GenerationRecord) -> None:
        """A generation begins. Of many, those between the first and the last become sums."""
        self.generations.append(generation)
        for old in self.generations[FIRST_KEPT:-LAST_KEPT]:
            if old.ended:  # one that is under way, in another thread, stays
                self.generations.remove(old)
                self.omitted.add(old)

    @property
    def applied(self) -> bool:
        """Whether at least one generation ran under our decisions."""
        return self.omitted.applied > 0 or any(generation.patched for generation in self.generations)

    @property
    def status(self) -> str:
        """Of all generations that entered a loop, or were refused."""
        told, omitted = [each.status for each in self.generations if each.patched or not each.applied], self.omitted
        counts = {APPLIED: omitted.applied - omitted.partly, PARTLY: omitted.partly, NOT_APPLIED: omitted.refused}
        return combined([*told, *(status for status, count in counts.items() if count > 0)])

    @property
    def all_reasons(self) -> list[str]:
        """What went otherwise than asked for, each once; never empty where `applied` is False."""
        reasons = [*self.reasons, *(reason for generation in self.generations for reason in generation.reasons)]
        if reasons or self.applied:
            return list(dict.fromkeys(reasons))
        return [absence(self.generations, self.hosts)]

    @property
    def signal(self) -> str | None:
        """What the decisions were made from."""
        return next((generation.signal for generation in reversed(self.generations) if generation.signal), None)

    @property
    def report(self) -> dict[str, Any]:
        """The report of design §6, ready for `json.dump`."""
        return {
            "schema": SCHEMA,
            "host": ", ".join(self.hosts) or None,
            "status": self.status,
            "reasons": self.all_reasons,
            "settings": asdict(self.settings),
            "signal": self.signal,
            "generations": [generation.as_dict() for generation in self.generations],
            **({"omitted": self.omitted.as_dict()} if self.omitted.generations else {}),
        }
