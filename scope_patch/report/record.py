"""What happened, as plain data: filled in by the session, written as the report of design §6."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..settings import Settings

SCHEMA = 1


@dataclass(frozen=True)
class Verified:
    """A skipped iteration that was run all the same.

    Attributes:
        expected: ||v^ - v|| / ||v|| by the error bound; None where it says nothing.
        error: the true one; None where it is no finite number.
        tightened: it was above the bound, and from then on at most so many skips in a row were allowed; else None.
    """

    iteration: int
    expected: float | None
    error: float | None
    tightened: int | None


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

    def as_dict(self) -> dict[str, Any]:
        return {
            "iterations": self.iterations,
            "modes": "".join(self.modes),
            "reasons": list(self.reasons),
            "intervals": [list(interval) for interval in self.intervals],
            "slots_baseline": self.slots_baseline,
            "slots_computed": self.slots_computed,
            "selective": self.selective,
            **({"note": self.note} if self.note else {}),
            "frames": self.frames,
            "active": [list(bounds) for bounds in self.active],
            **({"chunk": self.chunk, "slots": list(self.slots)} if self.chunk else {}),
            "verified": [asdict(each) for each in self.verified],
        }


@dataclass
class Seconds:
    """Wall time of one generation: all of it, inside the host's DiT forwards, and in our own code."""

    total: float = 0.0
    dit: float = 0.0
    overhead: float = 0.0


@dataclass(eq=False)
class Generation:
    """One call of a pipeline."""

    applied: bool = True
    reasons: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    forwards_run: int = 0
    forwards_skipped: int = 0
    seconds: Seconds = field(default_factory=Seconds)
    history_bytes_peak: int = 0
    guards: dict[str, int] = field(default_factory=dict)
    forced: dict[str, int] = field(default_factory=dict)
    signal: str | None = None
    planned: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    finished: bool = False
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Whether it has returned or raised."""
        return self.finished or self.error is not None

    def guard(self, name: str, times: int = 1) -> None:
        self.guards[name] = self.guards.get(name, 0) + times

    def remark(self, sentence: str) -> None:
        """Something the user should know, said once."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def force(self, name: str, forwards: int) -> None:
        """The host ran forwards that are no denoise step's own, for this reason."""
        self.forced[name] = self.forced.get(name, 0) + forwards

    def count(self, mode: str) -> int:
        """Iterations of that mode over all segments."""
        return sum(segment.modes.count(mode) for segment in self.segments)

    def as_dict(self) -> dict[str, Any]:
        return {
            "status": "applied" if self.applied else "not-applied",
            "reasons": list(self.reasons),
            "segments": [segment.as_dict() for segment in self.segments],
            "forwards": {
                "baseline": self.forwards_run + self.forwards_skipped,
                "run": self.forwards_run,
                "skipped": self.forwards_skipped,
            },
            "seconds": {name: round(value, 6) for name, value in asdict(self.seconds).items()},
            "history_bytes_peak": self.history_bytes_peak,
            "guards": dict(self.guards),
            "forced": dict(self.forced),
            "signal": self.signal,
            "planned": [dict(plan) for plan in self.planned],
            "remarks": list(self.remarks),
            "finished": self.finished,
            "error": self.error,
        }


@dataclass
class Omitted:
    """Sums over generations that a report has no longer in full.

    Attributes: generations, applied, unfinished: how many; modes: iterations by C, P, R; the others as in Generation
    and Segment.
    """

    generations: int = 0
    applied: int = 0
    unfinished: int = 0
    forwards_run: int = 0
    forwards_skipped: int = 0
    slots_baseline: int = 0
    slots_computed: int = 0
    modes: dict[str, int] = field(default_factory=lambda: dict.fromkeys("CPR", 0))
    seconds: Seconds = field(default_factory=Seconds)

    def add(self, generation: Generation) -> None:
        self.generations += 1
        self.unfinished += not generation.finished
        if not (generation.applied and generation.segments):
            return
        self.applied += 1
        self.forwards_run += generation.forwards_run
        self.forwards_skipped += generation.forwards_skipped
        for segment in generation.segments:
            self.slots_baseline += segment.slots_baseline
            self.slots_computed += segment.slots_computed
            for mode in self.modes:
                self.modes[mode] += segment.modes.count(mode)
        for name, value in asdict(generation.seconds).items():
            setattr(self.seconds, name, getattr(self.seconds, name) + value)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": {name: round(value, 6) for name, value in asdict(self.seconds).items()}}


FIRST_KEPT, LAST_KEPT = 8, 24
"""Generations that a run keeps in full; a server makes videos without end, and its report is written after each."""


@dataclass
class Run:
    """Everything one `run`, `apply` or `patched` did."""

    settings: Settings
    hosts: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    omitted: Omitted = field(default_factory=Omitted)

    def begin(self, generation: Generation) -> None:
        """A generation begins. Of many, those between the first and the last become sums."""
        self.generations.append(generation)
        for old in self.generations[FIRST_KEPT:-LAST_KEPT]:
            if old.ended:  # one that is under way, in another thread, stays
                self.generations.remove(old)
                self.omitted.add(old)

    @property
    def applied(self) -> bool:
        """Whether at least one generation ran under our decisions."""
        kept = any(generation.applied and generation.segments for generation in self.generations)
        return kept or self.omitted.applied > 0

    @property
    def told(self) -> list[str]:
        """What went otherwise than asked for; never empty where `applied` is False."""
        told = [*self.reasons, *(reason for generation in self.generations for reason in generation.reasons)]
        if told or self.applied:
            return list(dict.fromkeys(told))
        if self.generations:
            return ["the pipeline ran, but not through a diffusion-forcing denoise loop"]
        return ["no generation was started"] if self.hosts else ["no known host was imported"]

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
            "status": "applied" if self.applied else "not-applied",
            "reasons": self.told,
            "settings": asdict(self.settings),
            "signal": self.signal,
            "generations": [generation.as_dict() for generation in self.generations],
            **({"omitted": self.omitted.as_dict()} if self.omitted.generations else {}),
        }
