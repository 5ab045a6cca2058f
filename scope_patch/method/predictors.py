"""Predictors: a velocity at a noise level nobody computed, as a weighted sum of velocities that were.

Every predictor answers one question, slot by slot (a slot is a latent frame): which weight has each history point?
So a prediction is linear in the history, costs one fused multiply-add a point, and keeps dtype and device. All tensors
are on the velocities' device, and none is read: arithmetic on them makes the host wait for nothing.

Imports no torch: `run` must know the names without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from . import find
from .decision import LEAST_SHARE, SAME_LEVEL

if TYPE_CHECKING:
    from torch import Tensor

    from .forecast import Points

BENT, STRAIGHT = 0.45, 0.7
"""Distances in `log_share` at which half of a slope is followed, in general, and from a slot's first two velocities,
where it bends less. Measured with `examples/studies/extrapolation.py`."""
FARTHEST = 2.0
"""In units of those: from here on a slope tells nothing, and a little of it every step adds up."""
TRAINED = 1.3
"""Share of the slope that is bent away, by distance: hardly ever less on the demo model (2 % of its velocities)."""
OLD_SHARE = 0.3
"""Weight of momentum's older slope. The paper names a momentum predictor and gives no formula; this one is ours."""


class Predictor(Protocol):
    """Attributes: name; `keeps`, the number of history points it can use (1 to 3)."""

    name: str
    keeps: int

    def weights(self, target: Tensor, points: Points) -> Tensor:
        """Weights of the history points, newest first, [points, slots]; each column sums to 1.

        They are asked for while the host's loop runs: no number of a tensor may be looked at, since the host would wait
        for the device (no `item`, `bool`, `tolist`, no mask as an index).

        Args:
            target: the present noise level of each slot, [slots], of the dtype and on the device of `points.levels`.
        """


def log_share(level: Tensor) -> Tensor:
    """Of a noise level sigma: -log(1 - sigma + LEAST_SHARE), in which velocities change at about one rate everywhere.

    A sample x = (1 - sigma) data + sigma noise tells of the data what its share 1 - sigma allows.
    """
    return -((1 - level).clamp(min=0) + LEAST_SHARE).log()


class Auto:
    """Second order, shrunk to what the distance leaves of it: v0 + a h D1 + a b h (h + h1) C / 2.

    How much of the slope is followed hangs on the distance x from the second point in `log_share`, whatever the number
    of steps: a = 1 / (1 + (x / BENT)^6), nearly all near by, nothing from FARTHEST on; so all CFG branches are alike in
    it, and guidance has no difference to enlarge. Three points tell s = ||C|| |h + h1| / (2 ||D1||), the share of the
    slope that is bent away over that distance. Where s / x is less than on the demo, the curve is straighter than
    those of trained models, and x is cut by the square of that. Of the curvature s leaves b = 1 / (1 + s^2): nearly
    all where velocities are smooth, nothing where they are noise. Measured with `examples/studies/extrapolation.py`.
    """

    name = "auto"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        if len(points) < 2:
            return points.holding
        h = target - points.levels[0]
        beyond = h + points.gaps[0]  # h + h1
        bent = (beyond * points.disagreement / 2).abs()
        x = (log_share(target) - log_share(points.levels[1])).abs().nan_to_num(nan=0.0)
        straight = (bent / (TRAINED * x + SAME_LEVEL)).clamp(max=1)
        reach = (x * straight.square() / BENT).where(points.count >= 3, x / STRAIGHT)
        share = (1 / (1 + reach**6)).where(reach < FARTHEST, 0.0)
        if len(points) < 3:
            return points.weigh(h * share)
        second = h * beyond * points.per_both_gaps * share / (2 + 2 * bent.square())
        return points.weigh(h * share + second, -second)


class Hold:
    """Repeats the last velocity: exact on constants."""

    name = "hold"
    keeps = 2  # it reads one; but Predict asks for two whatever the predictor, so that forwards can be compared

    def weights(self, target: Tensor, points: Points) -> Tensor:
        return points.holding[:1]


class Last(Hold):
    """Repeats the last velocity and keeps no other: half the memory of `hold`, but nothing to Predict from."""

    name = "last"
    keeps = 1


class Momentum:
    """First order with a slope smoothed over two gaps: exact on lines, calmer than taylor1 on rough velocities."""

    name = "momentum"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.levels[0]
        old = OLD_SHARE * (points.count >= 3)
        return points.weigh(h * (1 - old), h * old)


class Taylor1:
    """First order, v0 + (h / h1)(v0 - v1): exact on lines, also with uneven gaps."""

    name = "taylor1"
    keeps = 2

    def weights(self, target: Tensor, points: Points) -> Tensor:
        return points.weigh(target - points.levels[0])


class Taylor2:
    """Second order in Newton form, v0 + h D1 + h (h + h1) C / 2: exact on parabolas; first order on two points."""

    name = "taylor2"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.levels[0]
        bend = 0.5 * h * (h + points.gaps[0]) * points.per_both_gaps
        return points.weigh(h + bend, -bend)


class TaylorSeer2:
    """Second order by backward differences, v0 + h D1 + h h (D1 - D2) / (2 h1): TaylorSeer's, for policy taylorseer."""

    name = "taylorseer2"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.levels[0]
        # Where a slot has no third point its D2 drops out, and its D1 must then not be bent either.
        bend = 0.5 * h * h * points.per_first_gap * (points.count >= 3)
        return points.weigh(h + bend, -bend)


_OURS: Sequence[type[Predictor]] = (Auto, Hold, Last, Momentum, Taylor1, Taylor2, TaylorSeer2)
BUILT_IN = {predictor.name: predictor for predictor in _OURS}
GROUP = "scope_patch.predictors"


def create(name: str) -> Predictor:
    """The predictor of that name. Raises UsageError for a name nobody registered."""
    predictor: Predictor = find(name, BUILT_IN, GROUP, "predictor")()
    return predictor
