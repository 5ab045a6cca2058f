"""Predictors: a velocity at a noise level nobody computed, as a weighted sum of velocities that were.

Every predictor answers one question, slot by slot (a slot is a latent frame): which weight has each history point?
So a prediction is linear in the history, costs one fused multiply-add a point, and keeps dtype and device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .. import describe, find

if TYPE_CHECKING:
    from torch import Tensor

    from .formulas import Points


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
            points: what is known of the history (see `Points`).
        """
        ...


BUILT_IN = {
    "auto": "Auto",
    "hold": "Hold",
    "last": "Last",
    "momentum": "Momentum",
    "taylor1": "Taylor1",
    "taylor2": "Taylor2",
    "taylorseer2": "TaylorSeer2",
}
"""Name -> class in `formulas`, which needs torch: `run` must know the names without."""
GROUP = "scope_patch.predictors"


def built_in() -> dict[str, type[Predictor]]:
    """Ours, by name."""
    from . import formulas

    return {name: getattr(formulas, kind) for name, kind in BUILT_IN.items()}


def names() -> dict[str, str]:
    """Every known predictor with the first line of its docstring."""
    return describe(built_in(), GROUP)


def create(name: str) -> Predictor:
    """The predictor of that name. Raises UsageError for a name nobody registered."""
    predictor: Predictor = find(name, built_in(), GROUP, "predictor")()
    return predictor
