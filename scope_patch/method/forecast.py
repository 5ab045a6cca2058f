"""What the histories say about the present iteration: what is known of them, as predictors see it, and the velocities
they give, unless these must not be used.

The checks that the paper calls stability checks and leaves unspecified are arithmetic on sizes measured from the
velocities, on their device. Nothing here looks at a number or waits for the device, but for `Tally.read`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .decision import SAME_LEVEL
from .predictors import Predictor
from .schedule import Interval, Schedule

if TYPE_CHECKING:
    from .history import BranchHistory

LARGEST_CHANGE = 1.0
"""||v^ - v0|| / ||v0|| of a usable prediction, by the triangle inequality over slope and curvature terms."""


@dataclass(frozen=True)
class Points:
    """Up to three history points a slot, newest first: noise levels and sizes, no velocities.

    Attributes:
        levels: noise levels, float64 [points, slots] (float32 on MPS); NaN where a slot has no such point.
        drift: ||v0 - v1|| / ||v0|| a slot, of the dtype of `levels`, [slots].
        curvature: ||C|| / ||v0|| a slot, C the curvature of equation 7, likewise.
    """

    levels: Tensor
    drift: Tensor
    curvature: Tensor

    @classmethod
    def unmeasured(cls, levels: Tensor) -> Points:
        """Points whose velocities are taken not to change."""
        return cls(levels, torch.zeros_like(levels[0]), torch.zeros_like(levels[0]))

    def __len__(self) -> int:
        return int(self.levels.shape[0])

    @cached_property
    def first_gap(self) -> Tensor:
        """h1 = sigma0 - sigma1; NaN where one is missing or the slot did not advance."""
        return self._gap(0)

    @cached_property
    def second_gap(self) -> Tensor:
        """h2 = sigma1 - sigma2; NaN also where h1 is (a second point without a first means nothing)."""
        return self._gap(1).masked_fill(self.first_gap.isnan(), torch.nan)

    def _gap(self, newer: int) -> Tensor:
        if newer + 1 >= len(self):
            return torch.full_like(self.levels[0], torch.nan)
        gap = self.levels[newer] - self.levels[newer + 1]
        return gap.masked_fill(gap.abs() <= SAME_LEVEL, torch.nan)

    @cached_property
    def gaps(self) -> tuple[Tensor, Tensor]:
        """(h1, h2); 0 where a slot has no such point."""
        return self.first_gap.nan_to_num(nan=0.0), self.second_gap.nan_to_num(nan=0.0)

    @cached_property
    def per_first_gap(self) -> Tensor:
        """1 / h1; 0 where a slot has no second point, so that its slope drops out of every sum."""
        return (1 / self.first_gap).nan_to_num(nan=0.0)

    @cached_property
    def per_both_gaps(self) -> Tensor:
        """2 / (h1 + h2), by which a difference of slopes is a curvature; 0 where a slot has no third point."""
        return (2 / (self.first_gap + self.second_gap)).nan_to_num(nan=0.0)

    @cached_property
    def count(self) -> Tensor:
        """Distinct usable points a slot, integers [slots]: 0, 1, 2 or 3."""
        return (~self.levels[0].isnan()).long() + ~self.first_gap.isnan() + ~self.second_gap.isnan()

    @cached_property
    def disagreement(self) -> Tensor:
        """||C|| / ||D1|| a slot, by which a curvature term outgrows a first-order one; 0 where one is not known."""
        return (self.curvature * self.first_gap.abs() / self.drift).nan_to_num(nan=0.0)

    @cached_property
    def faulty(self) -> Tensor:
        """Slots whose measured sizes are not numbers, booleans [slots]."""
        return ~(self.drift + self.curvature).isfinite()

    @cached_property
    def holding(self) -> Tensor:
        """Weights [points, slots] that repeat v0."""
        weights = torch.zeros_like(self.levels)
        weights[0].fill_(1)
        return weights

    def weigh(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Weights [points, slots] of v0 + first D1 + second D2, D1 = (v0 - v1) / h1 and D2 = (v1 - v2) / h2.

        The factors are finite, [slots]; a slope that a slot does not have drops out.
        """
        if len(self) < 2:
            return self.holding[:1]
        p = first * self.per_first_gap
        if len(self) < 3 or second is None:
            return torch.stack([1 + p, -p])
        q = second * (1 / self.second_gap).nan_to_num(nan=0.0)
        return torch.stack([1 + p, q - p, -q])

    @staticmethod
    def join(parts: Sequence[Points]) -> Points:
        """Several histories as one, slots behind slots: what is asked of each is asked of all at once."""
        if len(parts) == 1:
            return parts[0]
        rows = max(len(part) for part in parts)
        levels = [F.pad(part.levels, (0, 0, 0, rows - len(part)), value=torch.nan) for part in parts]
        drift, curvature = [part.drift for part in parts], [part.curvature for part in parts]
        return Points(torch.cat(levels, dim=1), torch.cat(drift), torch.cat(curvature))


class Tally:
    """Counts iterations in which something happened to a slot that was updated.

    Noting costs no operation on the device: flags are kept as they are, some bytes an iteration.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[str, int, Sequence[Interval], Tensor]] = []

    def note(self, name: str, iteration: int, intervals: Sequence[Interval], flags: Tensor) -> None:
        """Once an iteration and name; flags are booleans over the intervals, one behind the other, final."""
        self._entries.append((name, iteration, intervals, flags))

    def read(self, mask: Tensor) -> dict[str, int]:
        """The counts by name that are not 0, under an update mask on the CPU; waits for the device, forgets them."""
        entries, self._entries = self._entries, []
        counts: Counter[str] = Counter()
        for device in {flags.device for *_, flags in entries}:  # one wait for each
            there = [entry for entry in entries if entry[3].device == device]
            read = torch.cat([flags for *_, flags in there]).to("cpu")
            parts = torch.split(read, [len(flags) for *_, flags in there])
            for (name, iteration, intervals, _), flags in zip(there, parts, strict=True):
                active = torch.cat([mask[iteration, start:end] for start, end in intervals])
                counts[name] += int((flags & active).any())
        return dict(+counts)


class Part(NamedTuple):
    """A history, and the slots that are asked of it."""

    history: BranchHistory
    interval: Interval


class Forecast:
    """Predictions not yet made, of all parts at once; weights are worked out when first asked for.

    Args:
        parts: histories that have a velocity; one can be asked for where the history covers the part's interval.
        known: what is known of them, joined (see `Points.join`).
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
        self.known, self.schedule, self.iteration = known, schedule, iteration
        self.predictor, self.most, self._tally = predictor, most, tally
        self._intervals = [part.interval for part in parts]
        firsts = accumulate((end - start for _, (start, end) in parts), initial=0)
        self._places = {own: (first, len(own.anchors)) for (own, _), first in zip(parts, firsts, strict=False)}
        tally.note("finite", iteration, self._intervals, known.faulty)

    @cached_property
    def weights(self) -> Tensor:
        """The predictor's, [points, slots of all parts]; slots whose prediction changes too much are held."""
        device = self.known.levels.device
        levels = [self.schedule.levels(self.iteration, interval, device) for interval in self._intervals]
        weights = self.predictor.weights(torch.cat(levels), self.known)
        if len(weights) < 2:
            return weights
        rows = weights.unbind()
        # A slot whose sizes are not numbers is not inside, unless its weights repeat the last velocity anyway.
        inside = (rows[1] == 0) | (largest_change(self.known, rows) <= self.most)
        self._tally.note("stability", self.iteration, self._intervals, ~inside)
        return torch.where(inside, weights, self.known.holding[: len(weights)])

    def predict(self, part: Part) -> Tensor:
        """The predicted velocity of a part; KeyError where no forecast was made of it."""
        history, (start, end) = part
        first, depth = self._places[history]
        if len(history.anchors) < depth:
            return history.hold(part.interval)  # older points were dropped since (`Memory`): the weights count on them
        return history.combine(part.interval, self.weights[: len(history.anchors)].narrow(1, first, end - start))


def largest_change(points: Points, rows: Sequence[Tensor]) -> Tensor:
    """An upper bound of ||v^ - v0|| / ||v0|| a slot, from the measured sizes; rows of weights, newest point first."""
    first = rows[0] - 1  # v^ - v0 = first (v0 - v1) + second (v1 - v2)
    if len(rows) < 3:
        return first.abs() * points.drift
    second, (h1, h2) = -rows[2], points.gaps  # v1 - v2 = (h2 / h1) (v0 - v1) - (h2 (h1 + h2) / 2) C
    curvature = second * (h2 * (h1 + h2) / 2)
    return (first + second * (h2 * points.per_first_gap)).abs() * points.drift + curvature.abs() * points.curvature
