"""Rivals of `scope` as policies: `teacache` (arXiv 2411.19108) and `flowcache` (arXiv 2602.10825) decide by an
accumulated change, `taylorseer` (arXiv 2503.06923) and `delta-dit` (arXiv 2406.01125) by counting iterations."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from ..errors import UsageError, unknown
from ..settings import Settings
from .decision import Decision, Mode, Observation, Size, Traits, at_least, options_of

# SkyworkAI/SkyReels-V2 @ abed76f, modules/transformer.py, for text to video: (model, use_ret_steps) -> the polynomial
# that makes a change of the model's output out of one of the embedding, highest power first.
COEFFICIENTS: dict[tuple[str, bool], Sequence[float]] = {
    ("1.3B", True): (-5.21862437e04, 9.23041404e03, -5.28275948e02, 1.36987616e01, -4.99875664e-02),
    ("14B", True): (-3.03318725e05, 4.90537029e04, -2.65530556e03, 5.87365115e01, -3.15583525e-01),
    ("1.3B", False): (2.39676752e03, -1.31110545e03, 2.01331979e02, -8.29855975e00, 1.37887774e-01),
    ("14B", False): (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
}
PLAIN = (1.0, 0.0)
MODELS = ("1.3B", "14B", "none")
WIDE = 3000
"""Channels that tell the 14B model (5120) from the 1.3B one (1536)."""


class Rival:
    """What all share. Attributes: knob, the one that is set for a target speed-up; tried, its values, slow to fast."""

    active = True
    knob: str
    tried: Sequence[float]

    def candidates(self) -> list[Any]:
        """Copies, each with its knob at one of the values."""
        copies = [copy.copy(self) for _ in self.tried]
        for policy, value in zip(copies, self.tried, strict=True):
            setattr(policy, self.knob, value)
        return copies


class Accumulating(Rival):
    """The state is the rescaled change accumulated since the last recompute."""

    knob = "threshold"
    tried = tuple(0.002 * 1.06**k for k in range(140))  # to 6.6
    threshold: float
    coefficients: Sequence[float] = PLAIN

    def initial(self) -> float:
        return 0.0

    def accumulate(self, state: float, change: float) -> tuple[float, Decision]:
        """With one more change. Like upstream's: what is not a number is not below the threshold."""
        # Highest power first, as `numpy.poly1d` evaluates it.
        accumulated = state + reduce(lambda value, coefficient: value * change + coefficient, self.coefficients, 0.0)
        if accumulated < self.threshold:
            return accumulated, Decision(Mode.CACHE, "threshold")
        return 0.0, Decision(Mode.RECOMPUTE, "threshold")


@dataclass(frozen=True)
class TeaCacheOptions:
    """By upstream's names.

    Attributes:
        teacache_thresh: recompute when the accumulated change reaches it.
        use_ret_steps: decide from the modulation e0 instead of the embedding e, and recompute five iterations at every
            start instead of one.
        ckpt_dir: whose coefficients: 1.3B, 14B, or none (the change itself); upstream looks for these in a path. Left
            out, they are those of the model's size.
        num_steps: calls of the DiT after which upstream's counter starts anew; its scripts pass the iterations of a
            segment, which is half of its calls. 0: that.
    """

    teacache_thresh: float = 0.2
    use_ret_steps: bool = False
    ckpt_dir: str = ""
    num_steps: int = 0


class TeaCache(Accumulating):
    """TeaCache as built into SkyReels-V2: reuse the residual while the rescaled, accumulated embedding change is small.

    Upstream counts calls of the DiT, two an iteration (guidance on): where its `num_steps` is odd, its branches fall
    out of step with each other, while ours recompute together.
    """

    name = "teacache"

    def __init__(self, settings: Settings) -> None:
        self.options = options_of(settings, TeaCacheOptions)
        at_least(0, teacache_thresh=self.options.teacache_thresh, num_steps=self.options.num_steps)
        if self.options.ckpt_dir not in ("", *MODELS):
            raise unknown("set of coefficients", self.options.ckpt_dir, MODELS)
        self.threshold = self.options.teacache_thresh
        self.fit(Size())
        signal = "timestep" if self.options.use_ret_steps else "embedding"
        self.traits = Traits(level="residual", self_tuned=True, per_slot=False, signal=signal, predictor="last")

    def fit(self, size: Size) -> None:
        """The coefficients of this size of model, unless the user chose."""
        model = self.options.ckpt_dir or ("14B" if size.width > WIDE else "1.3B")
        self.coefficients = COEFFICIENTS.get((model, self.options.use_ret_steps), PLAIN)

    def step(self, state: float, observation: Observation) -> tuple[float, Decision]:
        steps = self.options.num_steps or observation.iterations
        retained = 10 if self.options.use_ret_steps else 2
        calls = (2 * observation.iteration, 2 * observation.iteration + 1)
        if observation.moved or observation.forced:
            return 0.0, Decision(Mode.RECOMPUTE, "growth" if observation.moved else "forced")
        if observation.discrepancy is None or any(call % steps < retained for call in calls):
            return 0.0, Decision(Mode.RECOMPUTE, "horizon")
        return self.accumulate(state, observation.discrepancy)


@dataclass(frozen=True)
class FlowCacheOptions:
    """Attributes:
    rel_l1_thresh: recompute a chunk when its accumulated change reaches it (`teacache_thresh` in their SkyReels-V2
        fork). Left out: 0.015 on MAGI-1, 0.15 on SkyReels-V2, as in their run scripts.
    warmup_steps: denoise steps of a chunk that are computed in any case (`ret_steps` there).
    """

    rel_l1_thresh: float | None = None
    warmup_steps: int = 5


class FlowCache(Accumulating):
    """FlowCache: every chunk (MAGI-1) or block of frames (SkyReels-V2) decides by its own accumulated change.

    On SkyReels-V2 a slot cannot be forwarded without the others, which attend to it: there, all are forwarded as soon
    as one asks for it. Its compression of the key-value cache is out of scope: it changes what attention sees, not
    which forwards run.
    """

    name = "flowcache"

    def __init__(self, settings: Settings) -> None:
        self.options = options_of(settings, FlowCacheOptions)
        at_least(0, warmup_steps=self.options.warmup_steps, rel_l1_thresh=self.options.rel_l1_thresh or 0)
        self.fit(Size())

    def fit(self, size: Size) -> None:
        """Their two forks decide from two signals, and reuse in two places.

        On MAGI-1 theirs is the change of the embedded latents; ours is what is expected of it, which ranks agree on and
        which is known beforehand.
        """
        given, self.chunked = self.options.rel_l1_thresh, size.chunked
        self.threshold = (0.015 if size.chunked else 0.15) if given is None else given
        self.coefficients = PLAIN if size.chunked else COEFFICIENTS["14B" if size.width > WIDE else "1.3B", True]
        level, signal = ("velocity", "expected") if size.chunked else ("residual", "timestep")
        self.traits = Traits(level=level, self_tuned=True, joint=not size.chunked, signal=signal, predictor="last")

    def step(self, state: float, observation: Observation) -> tuple[float, Decision]:
        if observation.moved and not self.chunked:
            return 0.0, Decision(Mode.RECOMPUTE, "growth")
        if not observation.active:  # nobody integrates its velocity
            return 0.0, Decision(Mode.CACHE, "threshold")
        # The last of the whole walk on MAGI-1, and of each block of frames on SkyReels-V2.
        left = observation.iterations - 1 - observation.iteration if self.chunked else observation.remaining
        if left == 0 or observation.forced:
            return 0.0, Decision(Mode.RECOMPUTE, "forced")
        if observation.discrepancy is None or (self.chunked and observation.points < 1):
            return 0.0, Decision(Mode.RECOMPUTE, "history")
        if observation.age < max(self.options.warmup_steps, 1):
            return 0.0, Decision(Mode.RECOMPUTE, "horizon")
        return self.accumulate(state, observation.discrepancy)


class Counting(Rival):
    """There is nothing to remember, the iteration's number decides."""

    knob = "interval"
    interval: int
    instead = Mode.CACHE

    def initial(self) -> None:
        return None

    def step(self, state: None, observation: Observation) -> tuple[None, Decision]:
        if observation.moved or observation.forced:
            return None, Decision(Mode.RECOMPUTE, "growth" if observation.moved else "forced")
        if self.due(observation.iteration, observation.iterations):
            return None, Decision(Mode.RECOMPUTE, "horizon")
        return None, Decision(self.instead, "plan")

    def due(self, iteration: int, iterations: int) -> bool:
        """Whether this iteration is one of those that are recomputed."""
        raise NotImplementedError


@dataclass(frozen=True)
class TaylorSeerOptions:
    """By the paper's names.

    Attributes:
        interval: N, one recompute every N iterations.
        max_order: O, 0 to 2, of the forecast.
        warmup: iterations at the start that are all recomputed (`first_enhance`; diffusers'
            `disable_cache_before_step`).
        first: iterations from the last of these to the next recompute; the authors' code has N, diffusers 2. 0: N.
    """

    interval: int = 5
    max_order: int = 1
    warmup: int = 3
    first: int = 0


class TaylorSeer(Counting):
    """TaylorSeer: recompute every N iterations, forecast by finite differences over step numbers in between."""

    name = "taylorseer"
    tried = range(1, 21)

    def __init__(self, settings: Settings) -> None:
        self.options = options_of(settings, TaylorSeerOptions)
        at_least(1, interval=self.options.interval, warmup=self.options.warmup)
        at_least(0, max_order=self.options.max_order, first=self.options.first)
        predictors = ("last", "taylor1", "taylorseer2")
        if self.options.max_order >= len(predictors):
            raise UsageError(f"max_order is {self.options.max_order}, but three points are kept: 2 at most")
        self.interval = self.options.interval
        self.instead = Mode.PREDICT if self.options.max_order else Mode.CACHE
        predictor = predictors[self.options.max_order]
        self.traits = Traits(self_tuned=True, per_slot=False, signal="none", predictor=predictor, by_step=True)

    def due(self, iteration: int, iterations: int) -> bool:
        since = iteration - (self.options.warmup - 1)
        first = self.options.first or self.interval
        return since <= 0 or (since >= first and (since - first) % self.interval == 0)


@dataclass(frozen=True)
class DeltaDiTOptions:
    """Attributes:
    interval: N, one whole forward every N iterations.
    blocks: how many are bypassed in between; 0: three quarters of the model's (our choice; the paper tunes it).
    b: the share of the iterations that is the early stage, in which the rear blocks are bypassed; the front ones later.
    """

    interval: int = 2
    blocks: int = 0
    b: float = 0.5


class DeltaDiT(Counting):
    """Delta-DiT: reuse the residual of the rear blocks in the early stage, and of the front blocks in the late one.

    The other blocks run at every iteration, so a skipped forward is not for free.
    """

    name = "delta-dit"
    tried = range(1, 31)

    def __init__(self, settings: Settings) -> None:
        self.options = options_of(settings, DeltaDiTOptions)
        at_least(1, interval=self.options.interval)
        at_least(0, blocks=self.options.blocks, b=self.options.b)
        if settings.level == "velocity":
            raise UsageError("policy delta-dit bypasses a part of the blocks, which is no --level velocity")
        self.interval, self._blocks, self._bypassed = self.options.interval, 0, 0
        self.traits = Traits(level="residual", self_tuned=True, per_slot=False, signal="none", predictor="last")

    def fit(self, size: Size) -> None:
        """Which blocks are front and rear, and what is left of a forward, hang on their number."""
        if size.blocks:
            wanted = self.options.blocks or round(0.75 * size.blocks)
            self._blocks, self._bypassed = size.blocks, min(max(wanted, 1), size.blocks)
            self.traits = replace(self.traits, residual_work=1 - self._bypassed / size.blocks)

    def span(self, iteration: int, iterations: int) -> tuple[int, int] | None:
        """Rear blocks, then front blocks."""
        if not self._blocks:
            return None
        if iteration < self._turn(iterations):
            return self._blocks - self._bypassed, self._blocks
        return 0, self._bypassed

    def due(self, iteration: int, iterations: int) -> bool:
        turn = self._turn(iterations)
        return (iteration - (turn if iteration >= turn else 0)) % self.interval == 0

    def _turn(self, iterations: int) -> int:
        return round(self.options.b * iterations)
