"""Histories: absolute slots through growth, sizes for the guards, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from scope_patch.method.fold import of_feature
from scope_patch.method.forecast import LARGEST_CHANGE, Forecast, Part, Points, Tally, largest_change
from scope_patch.method.history import BranchHistory
from scope_patch.method.predictors import create
from scope_patch.method.schedule import Schedule, Table


def velocity(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, -1, 1, 1).expand(1, 2, -1, 2, 2).clone()


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_an_old_slots_history_survives_growth():
    history = BranchHistory(3)
    history.record((0, 2), row(0.9, 1.0), velocity(1.0, 10.0))
    history.record((0, 3), row(0.8, 0.9, 1.0), velocity(2.0, 20.0, 5.0))
    points = history.points((0, 3))
    assert points.count.tolist() == [2, 2, 1]
    weights = create("taylor1").weights(row(0.7, 0.8, 0.9), points)
    made = history.combine((0, 3), weights)[0, 0, :, 0, 0]
    assert torch.allclose(made, torch.tensor([3.0, 30.0, 5.0]))


def test_a_sliding_window_aligns_by_absolute_slot():
    history = BranchHistory(3)
    history.record((0, 3), row(0.5, 0.6, 0.7), velocity(1.0, 2.0, 3.0))
    history.record((1, 4), row(0.5, 0.6, 0.7), velocity(4.0, 6.0, 8.0))
    made = history.combine((1, 4), create("taylor1").weights(row(0.4, 0.5, 0.6), history.points((1, 4))))
    assert torch.allclose(made[0, 0, :, 0, 0], torch.tensor([6.0, 9.0, 8.0]))


def test_a_slot_nobody_computed_is_refused():
    history = BranchHistory(2)
    assert not history.covers((0, 1))
    history.record((0, 2), row(0.5, 0.5), velocity(1.0, 1.0))
    with pytest.raises(ValueError, match="newest covers"):
        history.combine((0, 3), torch.ones(1, 3))


def test_another_batch_dtype_or_picture_size_starts_anew():
    history = BranchHistory(3)
    history.record((0, 2), row(0.5, 0.5), velocity(1.0, 1.0))
    history.record((0, 2), row(0.4, 0.4), velocity(1.0, 1.0).to(torch.bfloat16))
    assert len(history.anchors) == 1
    history.record((0, 2), row(0.3, 0.3), torch.ones(2, 2, 2, 2, 2, dtype=torch.bfloat16))
    assert len(history.anchors) == 1


def test_it_keeps_a_copy_and_counts_its_bytes():
    history, given = BranchHistory(2), velocity(1.0, 2.0)
    for level in (0.9, 0.8, 0.7):
        history.record((0, 2), row(level, level), given)
    given.zero_()
    assert history.anchors[0].velocity.any() and history.anchors.bytes == 2 * given.nbytes


def test_measured_sizes():
    history = BranchHistory(3)
    for level in (0.9, 0.7, 0.6):
        history.record((0, 1), row(level), velocity(3 * level**2 + 1))
    points = history.points((0, 1))
    newest, before = 3 * 0.36 + 1, 3 * 0.49 + 1
    assert points.drift.item() == pytest.approx((before - newest) / newest, rel=1e-5)
    assert points.curvature.item() == pytest.approx(6 / newest, rel=1e-4)  # the second derivative of 3 s^2 + 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("anchors", [1, 2, 3])
def test_what_is_not_finite_is_seen_in_its_slot_and_no_other(bad, anchors):
    history = BranchHistory(3)
    for k in range(anchors - 1):
        history.record((0, 2), row(0.9 - k / 10, 0.9 - k / 10), velocity(1.0, 1.0 + k))
    history.record((0, 2), row(0.5, 0.5), velocity(bad, 1.0))
    points = history.points((0, 2))
    assert (points.drift + points.curvature).isfinite().tolist() == [False, True]


@pytest.mark.parametrize(("updated", "counts"), [(True, {"finite": 1, "stability": 1}), (False, {})])
def test_a_slot_whose_sizes_are_no_numbers_is_held_and_counted_where_it_is_updated(updated, counts):
    levels, mask = row(0.9, 0.8, 0.7, 0.6)[:, None].repeat(1, 2), torch.ones(4, 2, dtype=torch.bool)
    mask[3, 0] = updated
    schedule = Schedule.of(Table(1000 * levels, levels, mask, [(0, 2)] * 4))
    history, tally = BranchHistory(3), Tally()
    for k in range(3):
        given = velocity(1.0 + k / 9, 1.0 + k / 9)
        given[0, 0, 0, 0, 0] = torch.nan if k == 2 else 1.0
        history.record((0, 2), levels[k], given)
    known = history.points((0, 2))
    part = Part(history, (0, 2))
    made = Forecast([part], known, schedule, 3, create("auto"), LARGEST_CHANGE, tally).predict(part)
    assert torch.equal(made[:, :, 0].nan_to_num(7.0), given[:, :, 0].nan_to_num(7.0)), "held, in what is finite of it"
    assert torch.allclose(made[:, :, 1], torch.tensor(1 + 3 / 9)), "the other slot is predicted"
    assert tally.read(mask) == counts and tally.read(mask) == {}


def test_the_guard_of_magnitude():
    levels = row(0.5, 0.51).unsqueeze(1)
    points = Points(levels, row(0.1), row(0.0))

    def stable(target, magnitude):
        weights = create("taylor1").weights(row(target), points)
        return bool(largest_change(points, weights.unbind()) <= magnitude)

    assert stable(0.48, 0.21) and not stable(0.48, 0.19)


def test_bound_of_the_change_holds():
    """The triangle bound from measured sizes is never below the true change."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        history = BranchHistory(3)
        level = 0.9
        for _ in range(3):
            level -= 0.02 + 0.1 * torch.rand(1, generator=generator).item()
            history.record((0, 1), row(level), torch.randn(1, 2, 1, 4, 4, generator=generator))
        points = history.points((0, 1))
        for name in ("taylor1", "taylor2", "momentum", "auto"):
            weights = create(name).weights(row(level - 0.05), points)
            made, newest = history.combine((0, 1), weights), history.anchors[0].velocity
            true = (made - newest).norm() / newest.norm()
            assert largest_change(points, weights.unbind()).item() >= true.item() * (1 - 1e-4)


def test_discrepancy_equals_equation_4_and_asks_once():
    asked = []

    def feature(timesteps):
        asked.append(timesteps.tolist())
        return torch.stack([timesteps.cos(), timesteps.sin() + 2], dim=1)

    now, before = row(3.0, 5.0, 9.0), row(4.0, 6.0, 9.0)
    f, g = feature(now), feature(before)
    expected = (f - g).abs().mean() / g.abs().mean()
    asked.clear()
    mask = torch.ones(2, 3, dtype=torch.bool)
    table = Table(torch.stack([before, now]), torch.stack([before, now]) / 10, mask, [(0, 3)] * 2)
    change = of_feature(feature, Schedule.of(table))
    assert change(1, (0, 3)) == pytest.approx(expected.item(), rel=1e-5)
    assert change(1, (2, 3)) == 0 and change(0, (0, 3)) is None and change(1, (3, 3)) is None
    assert len(asked) == 1 and sorted(asked[0]) == sorted(set(asked[0]))


def test_memory_at_540p_is_what_the_design_allows():
    """13 MB a point and branch (fp32, 16 x 25 x 68 x 120); three points and two branches stay under 0.15 GB."""
    histories = [BranchHistory(create("auto").keeps) for _ in range(2)]
    for history in histories:
        for k in range(4):
            history.record((0, 25), torch.full((25,), 0.9 - k / 10).double(), torch.ones(1, 16, 25, 68, 120))
    assert histories[0].anchors[0].velocity.nbytes == pytest.approx(13e6, rel=0.01)
    assert sum(history.anchors.bytes for history in histories) < 0.15e9
