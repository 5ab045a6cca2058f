"""Policy `flowcache`: FlowCache (arXiv 2602.10825), an independent reuse decision for every chunk or block of frames.

Its compression of the key-value cache is out of scope: it changes what attention sees, not which forwards run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...settings import Settings
from ..decision import Decision, Mode, Observation
from .options import at_least, own
from .rungs import rungs
from .teacache import COEFFICIENTS, PLAIN, RUNGS, WIDE, polynomial
from .traits import Size, Traits

THRESHOLDS = {False: 0.15, True: 0.015}
"""Of the authors' run scripts, by whether the host denoises chunk by chunk (MAGI-1)."""


@dataclass(frozen=True)
class FlowCacheOptions:
    """Attributes:
    rel_l1_thresh: recompute a chunk when its accumulated change reaches it (`teacache_thresh` in their SkyReels-V2
        fork). Left out: 0.015 on MAGI-1, 0.15 on SkyReels-V2, as in their run scripts.
    warmup_steps: denoise steps of a chunk that are computed in any case (`ret_steps` there).
    """

    rel_l1_thresh: float | None = None
    warmup_steps: int = 5


class FlowCache:
    """FlowCache: every chunk (MAGI-1) or block of frames (SkyReels-V2) decides by its own accumulated change.

    The state is the accumulated change of one slot. On SkyReels-V2 a slot cannot be forwarded without the others, which
    attend to it: there, all are forwarded as soon as one asks for it.
    """

    name = "flowcache"
    active = True

    def __init__(self, settings: Settings) -> None:
        self.options = own(settings, FlowCacheOptions)
        given = self.options.rel_l1_thresh
        at_least(0, warmup_steps=self.options.warmup_steps, rel_l1_thresh=given or 0)
        self.traits = Traits(own=True, predictor="last")
        self.fit(Size())

    def fit(self, size: Size) -> None:
        """Their two forks decide from two signals, and reuse in two places."""
        given = self.options.rel_l1_thresh
        self.threshold = THRESHOLDS[size.chunked] if given is None else given
        self.chunked = size.chunked
        self.coefficients: Sequence[float] = PLAIN
        if not size.chunked:
            self.coefficients = COEFFICIENTS["14B" if size.width > WIDE else "1.3B", True]
        self.traits = replace(
            self.traits,
            level="velocity" if size.chunked else "residual",
            signal="latent" if size.chunked else "timestep",
            together=not size.chunked,
        )

    def ladder(self) -> list[FlowCache]:
        """Rising thresholds."""
        return rungs(self, "threshold", RUNGS)

    def initial(self) -> float:
        return 0.0

    def step(self, state: float, observation: Observation) -> tuple[float, Decision]:
        if observation.moved and not self.chunked:
            return 0.0, Decision(Mode.RECOMPUTE, "growth")
        if not observation.active:  # nobody integrates its velocity
            return 0.0, Decision(Mode.CACHE, "threshold")
        if self._last(observation) or observation.forced:
            return 0.0, Decision(Mode.RECOMPUTE, "forced")
        if observation.discrepancy is None or (self.chunked and observation.points < 1):
            return 0.0, Decision(Mode.RECOMPUTE, "history")
        if observation.age < max(self.options.warmup_steps, 1):
            return 0.0, Decision(Mode.RECOMPUTE, "horizon")
        accumulated = state + polynomial(self.coefficients, observation.discrepancy)
        if accumulated < self.threshold:
            return accumulated, Decision(Mode.CACHE, "threshold")
        return 0.0, Decision(Mode.RECOMPUTE, "threshold")

    def _last(self, observation: Observation) -> bool:
        """Of the whole walk on MAGI-1, and of each block of frames on SkyReels-V2."""
        return observation.iteration == observation.iterations - 1 if self.chunked else observation.remaining == 0
