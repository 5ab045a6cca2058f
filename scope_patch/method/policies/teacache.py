"""Policy `teacache`: TeaCache (arXiv 2411.19108) as SkyReels-V2 has it built in (`WanModel.initialize_teacache`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import unknown
from ...settings import Settings
from ..decision import Decision, Mode, Observation
from .options import at_least, own
from .rungs import rungs
from .traits import Size, Traits

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
RUNGS = [0.002 * 1.06**k for k in range(140)]
"""Thresholds that are tried for a target speed-up, 0.002 to 6.6."""


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


class TeaCache:
    """TeaCache as built into SkyReels-V2: reuse the residual while the rescaled, accumulated embedding change is small.

    The state is the accumulated change. Upstream counts calls of the DiT, two an iteration (guidance on): where its
    `num_steps` is odd, its branches fall out of step with each other, while ours recompute together.
    """

    name = "teacache"
    active = True

    def __init__(self, settings: Settings) -> None:
        self.options = own(settings, TeaCacheOptions)
        at_least(0, teacache_thresh=self.options.teacache_thresh, num_steps=self.options.num_steps)
        if self.options.ckpt_dir not in ("", *MODELS):
            raise unknown("set of coefficients", self.options.ckpt_dir, MODELS)
        self.threshold = self.options.teacache_thresh
        self._choose(self.options.ckpt_dir or MODELS[0])
        self.traits = Traits(
            level="residual",
            own=True,
            each=False,
            signal="timestep" if self.options.use_ret_steps else "embedding",
            predictor="last",
        )

    def fit(self, size: Size) -> None:
        """The coefficients of this size of model, unless the user chose."""
        if not self.options.ckpt_dir and size.width:
            self._choose("14B" if size.width > WIDE else "1.3B")

    def ladder(self) -> list[TeaCache]:
        """Rising thresholds."""
        return rungs(self, "threshold", RUNGS)

    def initial(self) -> float:
        return 0.0

    def step(self, state: float, observation: Observation) -> tuple[float, Decision]:
        steps = self.options.num_steps or observation.iterations
        retained = 10 if self.options.use_ret_steps else 2
        calls = (2 * observation.iteration, 2 * observation.iteration + 1)
        if observation.moved or observation.forced:
            return 0.0, Decision(Mode.RECOMPUTE, "growth" if observation.moved else "forced")
        if observation.discrepancy is None or any(call % steps < retained for call in calls):
            return 0.0, Decision(Mode.RECOMPUTE, "horizon")
        accumulated = state + polynomial(self.coefficients, observation.discrepancy)
        # Like upstream's: what is not a number is not below the threshold.
        if accumulated < self.threshold:
            return accumulated, Decision(Mode.CACHE, "threshold")
        return 0.0, Decision(Mode.RECOMPUTE, "threshold")

    def _choose(self, model: str) -> None:
        self.coefficients = COEFFICIENTS.get((model, self.options.use_ret_steps), PLAIN)


def polynomial(coefficients: Sequence[float], x: float) -> float:
    """Highest power first, as `numpy.poly1d` evaluates it."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
