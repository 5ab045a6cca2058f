"""The laws of the predictors (design §9)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scope_patch.errors import UsageError
from scope_patch.method import predictors
from scope_patch.method.forecast import Points
from scope_patch.method.history import BranchHistory
from scope_patch.method.predictors import log_share

ORDERS = {"hold": 0, "momentum": 1, "taylor1": 1, "taylor2": 2}
NAMES = [*ORDERS, "auto"]
SLOTS = 3
gaps = st.lists(st.floats(1e-3, 0.2), min_size=3, max_size=3)
numbers = st.floats(-10, 10, width=32)


def levels_of(drawn):
    """Noise levels of three anchors (newest first) and the target, one column a slot, with uneven gaps."""
    rows = torch.tensor(drawn, dtype=torch.float64).reshape(3, SLOTS)
    target = torch.full((SLOTS,), 0.1, dtype=torch.float64)
    return target + rows.cumsum(0), target


def filled(levels, velocity_at, keeps=3, dtype=torch.float32):
    """A history whose velocities are `velocity_at(noise level)`, [1, 2, slots, 2, 2]."""
    history = BranchHistory(keeps)
    for row in levels.flip(0):
        history.record((0, SLOTS), row, velocity_at(row).to(dtype))
    return history


def shaped(values):
    return values.view(1, 1, -1, 1, 1).expand(1, 2, -1, 2, 2).clone()


def predict(name, history, target):
    points = history.points((0, SLOTS))
    return history.combine((0, SLOTS), predictors.create(name).weights(target, points))


many_gaps = st.lists(st.floats(1e-2, 0.2), min_size=9, max_size=9)


@pytest.mark.parametrize("name", ORDERS)
@given(drawn=many_gaps, coefficients=st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_exact_on_polynomials_of_its_degree_with_uneven_gaps(name, drawn, coefficients):
    levels, target = levels_of(drawn)
    used = coefficients[: ORDERS[name] + 1]

    def polynomial(sigma):
        return shaped(sum(c * sigma**k for k, c in enumerate(used)) + 0 * sigma)

    made = predict(name, filled(levels, polynomial, dtype=torch.float64), target)
    assert torch.allclose(made, polynomial(target).double(), atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@given(drawn=many_gaps, shift=st.floats(-5, 5))
def test_weights_sum_to_one_and_do_not_depend_on_the_origin(name, drawn, shift):
    levels, target = levels_of(drawn)
    predictor = predictors.create(name)
    sizes = torch.ones(SLOTS, dtype=torch.float64)
    weights = predictor.weights(target, Points(levels, sizes, sizes))
    assert torch.allclose(weights.sum(0), torch.ones(SLOTS, dtype=torch.float64), atol=1e-9)
    if name == "auto":  # it knows how fast velocities change at a noise level
        return
    moved = predictor.weights(target + shift, Points(levels + shift, sizes, sizes))
    assert torch.allclose(weights, moved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@given(drawn=many_gaps, factor=numbers)
def test_linear_in_the_history(name, drawn, factor):
    levels, target = levels_of(drawn)
    generator = torch.Generator().manual_seed(1)
    one, two = (torch.randn(3, 1, 2, SLOTS, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))

    def with_velocities(values):
        history = BranchHistory(3)
        for row, value in zip(levels.flip(0), values.flip(0), strict=True):
            history.record((0, SLOTS), row, value)
        return history

    weights = predictors.create(name).weights(target, with_velocities(one).points((0, SLOTS)))
    sums = [with_velocities(v).combine((0, SLOTS), weights) for v in (one, two, one + factor * two)]
    assert torch.allclose(sums[0] + factor * sums[1], sums[2], atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_keeps_dtype_and_never_aliases_a_stored_tensor(name, dtype):
    levels, target = levels_of([0.05] * 9)
    history = filled(levels, shaped, dtype=dtype)
    before = [anchor.velocity.clone() for anchor in history.anchors]
    made = predict(name, history, target)
    assert made.dtype is dtype
    made.fill_(float("nan"))
    assert all(torch.equal(anchor.velocity, kept) for anchor, kept in zip(history.anchors, before, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_each_slot_has_its_own_noise_levels(name):
    levels, target = levels_of([0.02, 0.05, 0.1] * 3)
    history = filled(levels, shaped)
    whole = predictors.create(name).weights(target, history.points((0, SLOTS)))
    for slot in range(SLOTS):
        alone = predictors.create(name).weights(target[slot : slot + 1], history.points((slot, slot + 1)))
        assert torch.allclose(whole[:, slot], alone[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_a_slot_that_did_not_advance_holds(name):
    """A finished or waiting slot stands at one noise level in all anchors: no division by zero."""
    levels = torch.tensor([[0.3, 0.0], [0.4, 0.0], [0.5, 0.0]], dtype=torch.float64)
    sizes = torch.tensor([0.1, 0.0], dtype=torch.float64)
    weights = predictors.create(name).weights(torch.tensor([0.2, 0.0]).double(), Points(levels, sizes, sizes))
    assert weights.isfinite().all() and weights[0, 1] == 1.0 and not weights[1:, 1].any()


def test_second_order_falls_back_to_first_on_two_points():
    levels, target = levels_of([0.05] * 9)
    two = Points.unmeasured(levels[:2])
    assert torch.equal(
        predictors.create("taylor2").weights(target, two), predictors.create("taylor1").weights(target, two)
    )
    new_slot = levels.clone()
    new_slot[2, 1] = torch.nan  # this slot entered after the oldest anchor
    weights = predictors.create("taylor2").weights(target, Points.unmeasured(new_slot))
    first = predictors.create("taylor1").weights(target, Points.unmeasured(levels))
    assert torch.allclose(weights[:2, 1], first[:, 1]) and weights[2, 1] == 0
    assert not torch.allclose(weights[:2, 0], first[:, 0])


@given(gap=st.floats(1e-3, 0.02), newest=st.floats(0.1, 0.9), slope=st.floats(0.01, 1), bend=st.floats(3, 1000))
def test_auto_follows_what_is_near_and_repeats_what_is_far(gap, newest, slope, bend):
    """Of slope and curvature near by nearly all is followed, then less and less, and nothing far away."""
    levels = torch.tensor([[newest], [newest + gap], [newest + 2 * gap]], dtype=torch.float64)
    curvature = bend * slope / (1 - newest)
    sizes = torch.tensor([slope * gap], dtype=torch.float64), torch.tensor([curvature], dtype=torch.float64)
    auto, first, second = (predictors.create(name) for name in ("auto", "taylor1", "taylor2"))
    for points in (Points(levels, *sizes), Points(levels[:2], *sizes)):
        last = 1.0
        for share in (0.001, 0.1, 0.3, 0.6, 0.99):
            target = torch.tensor([newest * (1 - share)], dtype=torch.float64)
            made, slopes, curves = (each.weights(target, points) for each in (auto, first, second))
            curved = float(made[2] / curves[2]) if len(points) == 3 else 0.0
            straight = float((made[1] - curved * (curves[1] - slopes[1])) / slopes[1])
            assert -1e-9 <= curved <= straight + 1e-9 and straight <= last + 1e-9
            last = straight
            distance = float(log_share(levels[1]) - log_share(target))
            if distance > 1:
                assert straight < 0.3
            if distance < 0.05:
                assert straight > 0.999


def test_auto_follows_every_branch_alike_and_curvature_as_far_as_it_is_smooth():
    levels = torch.tensor([[0.5], [0.52], [0.54]], dtype=torch.float64)
    made = []
    for curvature in (60.0, 300.0, 1e9):
        sizes = (torch.tensor([value], dtype=torch.float64) for value in (0.1, curvature))
        made.append(
            predictors.create("auto").weights(torch.tensor([0.48], dtype=torch.float64), Points(levels, *sizes))
        )
    smooth, rough, noise = (weights[2].item() for weights in made)
    assert smooth > rough > noise and noise == pytest.approx(0, abs=1e-9)
    slopes = [weights[1] + 2 * weights[2] for weights in made]  # without what the curvature adds
    assert torch.allclose(slopes[0], slopes[1]) and torch.allclose(slopes[0], slopes[2])


@pytest.mark.parametrize("target", [0.5, 0.2, 0.01])
def test_auto_is_exact_on_a_straight_line_at_any_distance(target):
    levels = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64).view(3, 1).expand(3, SLOTS)
    line = lambda sigma: shaped(2 - 3 * sigma)  # noqa: E731
    wanted = torch.full((SLOTS,), target, dtype=torch.float64)
    made = predict("auto", filled(levels.flip(0), line, dtype=torch.float64), wanted)
    assert torch.allclose(made, line(wanted).double(), atol=1e-6)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match="taylor"):
        predictors.create("tailor2")
