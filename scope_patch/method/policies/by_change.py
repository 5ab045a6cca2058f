"""Policies that decide by an accumulated change: `scope`, the tri-modal scheduler of SCOPE (arXiv 2604.02979, equations
3 to 5 of design §2), and its rivals `teacache` (arXiv 2411.19108) and `flowcache` (arXiv 2602.10825); and `never`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

from ...errors import unknown
from ...settings import K_MAX, NO_LIMIT, Settings
from ..decision import Decision, Mode, Observation
from .traits import NoOptions, Size, Traits, at_least, options_of, varied

POINTS_TO_CACHE = 1
POINTS_TO_PREDICT = 2
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
THRESHOLDS_TRIED = [0.002 * 1.06**k for k in range(140)]
"""Thresholds that are tried for a target speed-up, 0.002 to 6.6."""


class ScopeState(NamedTuple):
    """A, the discrepancy accumulated since the last recompute, and r, the skips in a row."""

    accumulated: float = 0.0
    skips: int = 0


class Scope:
    """Cache below one threshold of accumulated discrepancy, Predict below a second, Recompute above."""

    name = "scope"
    active = True

    def __init__(self, settings: Settings) -> None:
        options_of(settings, NoOptions)
        self.cache_threshold, self.predict_threshold = settings.thresholds or NO_LIMIT
        self.max_skip = K_MAX if settings.max_skip is None else settings.max_skip
        self.decay = settings.predict_decay

    def initial(self) -> ScopeState:
        return ScopeState()

    def step(self, state: ScopeState, observation: Observation) -> tuple[ScopeState, Decision]:
        accumulated = state.accumulated + (observation.discrepancy or 0.0)
        decision = self._decide(accumulated, state.skips, observation)
        if decision.mode is Mode.RECOMPUTE:
            return ScopeState(), decision
        kept = accumulated * self.decay if decision.mode is Mode.PREDICT else accumulated
        return ScopeState(kept, state.skips + 1), decision

    def _decide(self, accumulated: float, skips: int, observation: Observation) -> Decision:
        recompute = Mode.RECOMPUTE
        if observation.grew:
            return Decision(recompute, "growth")
        if observation.forced:
            return Decision(recompute, "forced")
        if observation.points < POINTS_TO_CACHE or observation.discrepancy is None:
            return Decision(recompute, "history")
        if skips >= self.max_skip:
            return Decision(recompute, "horizon")
        if accumulated < self.cache_threshold:
            return Decision(Mode.CACHE, "threshold")
        # A discrepancy that is not a number is on neither side of a threshold: it recomputes.
        if not accumulated < self.predict_threshold:
            return Decision(recompute, "threshold")
        if observation.points < POINTS_TO_PREDICT:
            return Decision(Mode.CACHE if observation.hold_if_short else recompute, "history")
        return Decision(Mode.PREDICT, "threshold")


class Never:
    """Every step is recomputed on the host's own intervals: for comparing and for finding faults."""

    name = "never"
    active = False

    def __init__(self, settings: Settings) -> None:
        options_of(settings, NoOptions)

    def initial(self) -> None:
        return None

    def step(self, state: None, observation: Observation) -> tuple[None, Decision]:
        return None, Decision(Mode.RECOMPUTE, "forced")


class Accumulating:
    """What the two rivals share: the state is the rescaled change accumulated since the last recompute."""

    active = True
    threshold: float
    coefficients: Sequence[float] = PLAIN

    def candidates(self) -> list[Any]:
        """Rising thresholds."""
        return varied(self, "threshold", THRESHOLDS_TRIED)

    def initial(self) -> float:
        return 0.0

    def accumulate(self, state: float, change: float) -> tuple[float, Decision]:
        """With one more change. Like upstream's: what is not a number is not below the threshold."""
        accumulated = state + polynomial(self.coefficients, change)
        if accumulated < self.threshold:
            return accumulated, Decision(Mode.CACHE, "threshold")
        return 0.0, Decision(Mode.RECOMPUTE, "threshold")


def polynomial(coefficients: Sequence[float], x: float) -> float:
    """Highest power first, as `numpy.poly1d` evaluates it."""
    return reduce(lambda value, coefficient: value * x + coefficient, coefficients, 0.0)


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

    The state is the accumulated change. Upstream counts calls of the DiT, two an iteration (guidance on): where its
    `num_steps` is odd, its branches fall out of step with each other, while ours recompute together.
    """

    name = "teacache"

    def __init__(self, settings: Settings) -> None:
        self.options = options_of(settings, TeaCacheOptions)
        at_least(0, teacache_thresh=self.options.teacache_thresh, num_steps=self.options.num_steps)
        if self.options.ckpt_dir not in ("", *MODELS):
            raise unknown("set of coefficients", self.options.ckpt_dir, MODELS)
        self.threshold = self.options.teacache_thresh
        self._choose(self.options.ckpt_dir or MODELS[0])
        self.traits = Traits(
            level="residual",
            self_tuned=True,
            per_slot=False,
            signal="timestep" if self.options.use_ret_steps else "embedding",
            predictor="last",
        )

    def fit(self, size: Size) -> None:
        """The coefficients of this size of model, unless the user chose."""
        if not self.options.ckpt_dir and size.width:
            self._choose("14B" if size.width > WIDE else "1.3B")

    def step(self, state: float, observation: Observation) -> tuple[float, Decision]:
        steps = self.options.num_steps or observation.iterations
        retained = 10 if self.options.use_ret_steps else 2
        calls = (2 * observation.iteration, 2 * observation.iteration + 1)
        if observation.moved or observation.forced:
            return 0.0, Decision(Mode.RECOMPUTE, "growth" if observation.moved else "forced")
        if observation.discrepancy is None or any(call % steps < retained for call in calls):
            return 0.0, Decision(Mode.RECOMPUTE, "horizon")
        return self.accumulate(state, observation.discrepancy)

    def _choose(self, model: str) -> None:
        self.coefficients = COEFFICIENTS.get((model, self.options.use_ret_steps), PLAIN)


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


class FlowCache(Accumulating):
    """FlowCache: every chunk (MAGI-1) or block of frames (SkyReels-V2) decides by its own accumulated change.

    The state is the accumulated change of one slot. On SkyReels-V2 a slot cannot be forwarded without the others, which
    attend to it: there, all are forwarded as soon as one asks for it. Its compression of the key-value cache is out of
    scope: it changes what attention sees, not which forwards run.
    """

    name = "flowcache"

    def __init__(self, settings: Settings) -> None:
        self.options = options_of(settings, FlowCacheOptions)
        given = self.options.rel_l1_thresh
        at_least(0, warmup_steps=self.options.warmup_steps, rel_l1_thresh=given or 0)
        self.traits = Traits(self_tuned=True, predictor="last")
        self.fit(Size())

    def fit(self, size: Size) -> None:
        """Their two forks decide from two signals, and reuse in two places.

        On MAGI-1 theirs is the change of the embedded latents; ours is what is expected of it, which ranks agree on and
        which is known beforehand.
        """
        given = self.options.rel_l1_thresh
        self.threshold = THRESHOLDS[size.chunked] if given is None else given
        self.chunked = size.chunked
        self.coefficients = PLAIN if size.chunked else COEFFICIENTS["14B" if size.width > WIDE else "1.3B", True]
        self.traits = replace(
            self.traits,
            level="velocity" if size.chunked else "residual",
            signal="expected" if size.chunked else "timestep",
            joint=not size.chunked,
        )

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
        return self.accumulate(state, observation.discrepancy)

    def _last(self, observation: Observation) -> bool:
        """Of the whole walk on MAGI-1, and of each block of frames on SkyReels-V2."""
        return observation.iteration == observation.iterations - 1 if self.chunked else observation.remaining == 0
