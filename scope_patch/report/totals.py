"""Numbers over the generations of a run, or over one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .record import Generation, Omitted, Seconds

MODES = {"C": "cached", "P": "predicted", "R": "recomputed"}


@dataclass(frozen=True)
class Totals:
    """Sums over generations; `memory` (bytes of kept velocities) is the most at once.

    Attributes:
        before, after: DiT forwards of the host alone, and those that ran.
        frames_before, frames_after: latent frames in them.
        modes: iterations by C, P, R.
        reasons: iterations by (mode, reason).
        speedup: of the DiT's work by the cost model, over plans that were carried out to the end; None where none was.
        target: what was aimed at, None where nothing was or it differs.
    """

    before: int
    after: int
    frames_before: int
    frames_after: int
    modes: Counter[str]
    reasons: Counter[tuple[str, str]]
    seconds: Seconds
    memory: int
    guards: Counter[str]
    forced: Counter[str]
    speedup: float | None
    target: float | None

    @property
    def rest(self) -> float:
        """Seconds outside both the DiT and our own code: text encoder, VAE, the host's solver."""
        return max(0.0, self.seconds.total - self.seconds.dit - self.seconds.overhead)

    def plus(self, omitted: Omitted) -> Totals:
        """With generations of which there are only sums: all but reasons, guards and the speed-up by the cost model."""
        mine, theirs = self.seconds, omitted.seconds
        return replace(
            self,
            before=self.before + omitted.forwards_run + omitted.forwards_skipped,
            after=self.after + omitted.forwards_run,
            frames_before=self.frames_before + omitted.slots_baseline,
            frames_after=self.frames_after + omitted.slots_computed,
            modes=self.modes + Counter(omitted.modes),
            seconds=Seconds(mine.total + theirs.total, mine.dit + theirs.dit, mine.overhead + theirs.overhead),
        )


def totals(generations: Sequence[Generation]) -> Totals:
    """Sum up."""
    segments = [segment for generation in generations for segment in generation.segments]
    plans = [plan for generation in generations if generation.finished for plan in generation.planned]
    left, targets = work(plans), {plan["target"] for plan in plans}
    ran = sum(generation.forwards_run for generation in generations)
    times = [generation.seconds for generation in generations]
    return Totals(
        before=ran + sum(generation.forwards_skipped for generation in generations),
        after=ran,
        frames_before=sum(segment.slots_baseline for segment in segments),
        frames_after=sum(segment.slots_computed for segment in segments),
        modes=Counter(mode for segment in segments for mode in segment.modes),
        reasons=Counter(pair for segment in segments for pair in zip(segment.modes, segment.reasons, strict=True)),
        seconds=Seconds(*(sum(getattr(time, name) for time in times) for name in ("total", "dit", "overhead"))),
        memory=max((generation.history_bytes_peak for generation in generations), default=0),
        guards=sum((Counter(generation.guards) for generation in generations), Counter()),
        forced=sum((Counter(generation.forced) for generation in generations), Counter()),
        speedup=sum(plan["baseline"] for plan in plans) / left if left else None,
        target=targets.pop() if len(targets) == 1 else None,
    )


def work(plans: Sequence[Mapping[str, Any]]) -> float:
    """What was carried out of these plans: the work they leave, and what was recomputed because verifying said so."""
    total: float = sum(plan["work"] + plan.get("tightened", 0.0) for plan in plans)
    return total


def patched(generations: Sequence[Generation]) -> list[Generation]:
    """Those that ran under our decisions."""
    return [generation for generation in generations if generation.applied and generation.segments]
