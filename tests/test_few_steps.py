"""From 4 to 100 denoise steps: what bounds a prediction is the distance in noise level, not a number of steps."""

from __future__ import annotations

import itertools
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import scope_patch
from scope_patch.hosts.schedules import staircase
from scope_patch.method.placement import FUTILE, TOLERANCE
from scope_patch.method.plan import Planner
from scope_patch.method.resolved import HostDefaults, method_of
from scope_patch.method.schedule import Schedule
from scope_patch.settings import Settings

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def schedule(steps, shift, ar_step, frames=10):
    share = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    timesteps = 1000 * shift * share / (1 + (shift - 1) * share)
    return Schedule.of(staircase(timesteps, frames, ar_step=ar_step, block=5), selective=True)


def planned(target, steps, shift, ar_step, **settings):
    method = method_of(Settings(target_speedup=target, **settings), HostDefaults({}))
    return Planner(method, schedule(steps, shift, ar_step), lambda i, slots: float(slots[1] - slots[0])).resolved()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    steps=st.integers(4, 100),
    shift=st.floats(1, 12),
    ar_step=st.integers(0, 20),
    target=st.sampled_from([1.5, 2.0, 3.0, 5.0, 8.0]),
)
def test_a_plan_reaches_its_target_or_says_why_not(steps, shift, ar_step, target):
    plan = planned(target, steps, shift, ar_step)
    if plan.futile:
        assert plan.bound and "fewer steps would do as well" in plan.remark and f"{plan.speedup:.2f}" in plan.remark
        assert plan.speedup < target
    elif plan.bound:
        assert "is the most that" in plan.remark
    else:
        missed = plan.work > plan.baseline / target * TOLERANCE
        assert missed == ("is the nearest that" in plan.remark) and missed == bool(plan.remark)


@pytest.mark.parametrize("ar_step", [0, 3, 5])
def test_the_more_steps_the_more_can_be_skipped(ar_step):
    """And what many steps allow is left to them."""
    speedups = [planned(8.0, steps, 3.0, ar_step).speedup for steps in (4, 8, 12, 20, 50, 100)]
    assert all(fewer < more * 1.1 for fewer, more in itertools.pairwise(speedups))
    assert speedups[0] < 3 and speedups[-1] == pytest.approx(8, rel=0.05)


def test_what_is_not_futile_is_not_touched(monkeypatch):
    from scope_patch.method import plan

    cells = [(50, 3.0, 5, 5.0), (50, 3.0, 0, 5.0), (100, 8.0, 10, 5.0), (20, 3.0, 3, 3.0), (12, 3.0, 3, 3.0)]
    before = [planned(target, *cell).modes for *cell, target in cells]
    monkeypatch.setattr(plan, "FUTILE", 1000 * FUTILE)
    assert [planned(target, *cell).modes for *cell, target in cells] == before


def test_few_steps_of_a_trained_model_gain_by_skipping():
    """12 steps, 37 frames, target 3: as good as holding at the same decisions, much better than fewer steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other people's packages say on import
        pytest.importorskip("diffusers")
        sys.path.insert(0, str(EXAMPLES))
        try:
            from demo_model import pipeline
        finally:
            sys.path.remove(str(EXAMPLES))
    pipe = pipeline.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    make = lambda steps=12, ar_step=3: pipeline.sample(  # noqa: E731
        pipe, "a red disc and a blue square", num_frames=37, num_inference_steps=steps, ar_step=ar_step
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain, fewer = make(), make(4, 1)
        errors, runs = {}, {}
        for predictor in ("auto", "hold"):
            with scope_patch.patched(pipe, target_speedup=3, predictor=predictor, strict=True) as run:
                made = make()
            errors[predictor] = float((made - plain).norm() / plain.norm())
            runs[predictor] = run.report["generations"][0]
            assert float(made.std() / plain.std()) == pytest.approx(1, abs=0.1), "contrast"
    finally:
        torch.set_num_threads(threads)
    assert runs["auto"]["segments"][0]["modes"] == runs["hold"]["segments"][0]["modes"]
    assert errors["auto"] < 1.02 * errors["hold"] and errors["auto"] < 0.6 * float(
        (fewer - plain).norm() / plain.norm()
    )
