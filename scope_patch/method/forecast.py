"""What the histories say about the present iteration: the velocities they give, unless these must not be used.

The checks that the paper calls stability checks and leaves unspecified are arithmetic on sizes measured from the
velocities, on their device. Nothing here looks at a number or waits for the device, but for `Tally.read`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .history import BranchHistory
from .predictors import Predictor
from .predictors.formulas import Points
from .schedule import Interval, Schedule

LARGEST_CHANGE = 1.0
"""||v^ - v0|| / ||v0|| of a usable prediction, by the triangle inequality over slope and curvature terms."""


class Tally:
    """Counts iterations in which something happened to a slot that was updated.

    Noting costs no operation on the device: flags are kept as they are, some bytes an iteration.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[str, int, Sequence[Interval], Tensor]] = []

    def note(self, name: str, iteration: int, intervals: Sequence[Interval], flags: Tensor) -> None:
        """Once an iteration and name.

        Args:
            flags: booleans over the intervals, one behind the other; they must not be written to any more.
        """
        self._entries.append((name, iteration, intervals, flags))

    def read(self, mask: Tensor) -> dict[str, int]:
        """The counts by name, those that are not 0; waits for the device, and forgets them.

        Args:
            mask: update mask, booleans [iterations, slots], on the CPU.
        """
        entries, self._entries = self._entries, []
        counts: Counter[str] = Counter()
        for device in {flags.device for *_, flags in entries}:
            there = [entry for entry in entries if entry[3].device == device]
            read = torch.cat([flags for *_, flags in there]).to("cpu")
            parts = torch.split(read, [len(flags) for *_, flags in there])
            for (name, iteration, intervals, _), flags in zip(there, parts, strict=True):
                active = torch.cat([mask[iteration, start:end] for start, end in intervals])
                counts[name] += int((flags & active).any())
        return {name: count for name, count in counts.items() if count}


class Part(NamedTuple):
    """A history, and the slots that are asked of it."""

    history: BranchHistory
    interval: Interval


class Forecast:
    """Predictions not yet made, of all parts at once; weights are worked out when first asked for.

    Args:
        parts: histories that have a velocity; one can be asked for where the history covers the part's interval.
        known: what is known of them, joined (see `Points.join`).
        iteration: where in the schedule the velocities are wanted.
        most: the largest change of a usable prediction (`LARGEST_CHANGE`); inf: there is no bound but finiteness.
        tally: told of the slots that are held because their prediction would change more ("stability"), and of those
            whose measured sizes are not numbers ("finite").
    """

    def __init__(
        self,
        parts: Sequence[Part],
        known: Points,
        schedule: Schedule,
        iteration: int,
        predictor: Predictor,
        most: float,
        tally: Tally,
    ) -> None:
        self.parts, self.known = parts, known
        self.schedule, self.iteration = schedule, iteration
        self.predictor, self.most = predictor, most
        self._depths = [len(part.history.anchors) for part in parts]
        self._intervals, self._tally = [part.interval for part in parts], tally
        tally.note("finite", iteration, self._intervals, known.faulty)

    @cached_property
    def weights(self) -> Tensor:
        """The predictor's, [points, slots of all parts]; slots whose prediction changes too much are held."""
        device = self.known.levels.device
        wanted = {interval: self.schedule.levels(self.iteration, interval, device) for interval in self._intervals}
        levels = torch.cat([wanted[interval] for interval in self._intervals])
        weights = self.predictor.weights(levels, self.known)
        if len(weights) < 2:
            return weights
        inside = fine(self.known, weights, self.most)
        self._tally.note("stability", self.iteration, self._intervals, ~inside)
        return torch.where(inside, weights, self.known.holding[: len(weights)])

    def hold(self, part: Part) -> Tensor:
        """The newest velocity of a part."""
        return part.history.hold(part.interval)

    def predict(self, part: Part) -> Tensor:
        """The predicted velocity of a part."""
        first = 0
        for other, depth in zip(self.parts, self._depths, strict=True):
            width = other.interval[1] - other.interval[0]
            if other.history is part.history:
                if len(part.history.anchors) < depth:
                    return self.hold(part)  # older points were dropped since (`Memory`): the weights count on them
                weights = self.weights[: len(part.history.anchors)]
                return part.history.combine(part.interval, weights.narrow(1, first, width))
            first += width
        raise KeyError(f"no forecast was made of slots {part.interval}")


def fine(points: Points, weights: Tensor, most: float) -> Tensor:
    """Slots whose prediction changes no more than that, booleans [slots].

    A slot whose sizes are not numbers does not, unless its weights repeat the last velocity anyway.

    Args:
        weights: what the predictor made of it, [points, slots]; what it gave up (order, reach) is not counted.
    """
    rows = weights.unbind()
    held = rows[1] == 0
    if points.drift is None or points.curvature is None:
        return torch.ones_like(held)
    return held | (largest_change(points, rows) <= most)


def largest_change(points: Points, rows: Sequence[Tensor]) -> Tensor:
    """An upper bound of ||v^ - v0|| / ||v0|| a slot, from the measured drift and bend, which must be known.

    Args:
        rows: weights of the points, newest first, [slots] each.
    """
    assert points.drift is not None and points.curvature is not None
    first = rows[0] - 1  # v^ - v0 = first (v0 - v1) + second (v1 - v2)
    if len(rows) < 3:
        return first.abs() * points.drift
    second, (h1, h2) = -rows[2], points.gaps  # v1 - v2 = (h2 / h1) (v0 - v1) - (h2 (h1 + h2) / 2) C
    curvature = second * (h2 * (h1 + h2) / 2)
    return (first + second * (h2 * points.per_first_gap)).abs() * points.drift + curvature.abs() * points.curvature
