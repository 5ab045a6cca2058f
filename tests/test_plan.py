"""Plans: what was said before the first forward is what happens, and costs what was asked for."""

from __future__ import annotations

import math
from operator import gt
from types import SimpleNamespace

import pytest
import torch
from hosts import fake_magi, fake_pipeline, generate, tiny_pipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scope_patch
from scope_patch.hosts.schedules import staircase, walk, window_table
from scope_patch.method.decision import Size
from scope_patch.method.placement import AMPLIFICATION
from scope_patch.method.plan import Planner
from scope_patch.method.profile import assumed
from scope_patch.method.resolved import EVERYTHING, HostDefaults, method_of
from scope_patch.method.schedule import Schedule
from scope_patch.patch.planning import Planning
from scope_patch.settings import Settings

HOW = st.one_of(
    st.fixed_dictionaries({"target_speedup": st.floats(1, 8)}),
    st.fixed_dictionaries({"preset": st.sampled_from(["slow", "fast"])}),
    st.tuples(st.floats(0, 0.3), st.floats(0, 0.5)).map(
        lambda pair: dict(zip(("cache_threshold", "predict_threshold"), sorted(pair), strict=True))
    ),
)
SIGNAL = st.fixed_dictionaries(
    {
        "signal": st.sampled_from([None, "timestep", "expected"]),
        "placement": st.sampled_from([None, "error", "threshold"]),
        "max_skip": st.integers(0, 7),
    }
)
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def check(run):
    """Every segment did what its plan said; a plan keeps its target, or says that it cannot."""
    (generation,) = run.report["generations"]
    assert len(generation["planned"]) == len(generation["segments"]) and generation["finished"]
    for plan, segment in zip(generation["planned"], generation["segments"], strict=True):
        assert plan["modes"] == segment["modes"]
    return generation["planned"]


@few
@given(
    how=HOW,
    more=SIGNAL,
    ar_step=st.integers(0, 4),
    frames=st.sampled_from([25, 49, 65]),
    guidance=st.sampled_from([1.0, 5.0]),
)
def test_plan_equals_run_on_the_fake_official_repository(how, more, ar_step, frames, guidance):
    pipe = fake_pipeline()
    long = {"overlap": 5} if frames == 65 else {}
    block = 5 if ar_step else 1
    with scope_patch.patched(pipe, **how, **more, strict=True) as run:
        torch.manual_seed(0)
        pipe("a disc", num_frames=frames, ar_step=ar_step, causal_block_size=block, guidance_scale=guidance, **long)
    check(run)


@few
@given(
    how=HOW,
    more=SIGNAL,
    host=st.fixed_dictionaries(
        {"cfg": st.sampled_from([1, 3]), "num_steps": st.sampled_from([12, 16, 32]), "window": st.sampled_from([2, 4])}
    ),
    frames=st.sampled_from([24, 96, 130]),
    prefix=st.sampled_from([0, 1, 32]),
    each=st.booleans(),
)
def test_plan_equals_run_on_the_fake_magi(how, more, host, frames, prefix, each):
    tiny = fake_magi()
    model = tiny.make_model(**host, num_frames=frames)
    with scope_patch.patched(model, **how, **more, per_chunk=each, strict=True) as run:
        tiny.generate(model, prefix_frames=prefix)
    check(run)


@pytest.mark.parametrize("target", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["", "ImageToVideo"])
def test_targets_on_diffusers(kind, target):
    pipe = tiny_pipeline(kind)
    options = {"image": torch.zeros(1, 3, 32, 32), "num_inference_steps": 30} if kind else {"num_inference_steps": 30}
    with scope_patch.patched(pipe, target_speedup=target, strict=True) as run:
        generate(pipe, **options)
    (plan,) = check(run)
    assert plan["bound"] or plan["speedup"] == pytest.approx(target, rel=0.05)


def test_what_cannot_be_reached_is_said(capsys):
    pipe = fake_pipeline()
    for most, why in ((1, "--max-skip"), (None, "fewer steps would do as well")):
        with scope_patch.patched(pipe, target_speedup=50, max_skip=most) as run:
            torch.manual_seed(0)
            pipe("a disc")
        (plan,) = check(run)
        (remark,) = [remark for remark in run.report["generations"][0]["remarks"] if "aimed at" in remark]
        assert plan["bound"] and "50" in remark and f"{plan['speedup']:.2f}" in remark and why in remark


def planner(schedule, each=False, guided=True, **more):
    """A planner of one schedule on the expected change; a forward costs its slots."""
    method = method_of(Settings(placement="threshold", **more), HostDefaults({}, size=Size(chunked=each)))
    return Planner(method, schedule, lambda iteration, slots: float(slots[1] - slots[0]), guided=guided)


def skyreels(ar_step=5, steps=50, frames=25, block=5):
    made = staircase(torch.linspace(999, 1, steps), frames, ar_step=ar_step, block=block)
    return Schedule.of(made, selective=True)


def magi(steps=64, chunks=10, **options):
    return Schedule.of(window_table(walk(chunks, 4, steps), 6, steps, **options))


@pytest.mark.parametrize("target", [1.5, 2, 3, 4, 4.55])
@pytest.mark.parametrize(
    ("name", "made"),
    {
        "asynchronous": lambda: planner(skyreels()),
        "synchronous": lambda: planner(skyreels(ar_step=0, block=1)),
        "chunks": lambda: planner(magi(), each=True),
        "windows": lambda: planner(magi()),
    }.items(),
)
def test_targets_are_met_within_five_percent(name, made, target):
    made = made()
    for plan in (made.for_speedup(target), made.placed(target, 5, assumed())):
        assert plan.bound or plan.speedup == pytest.approx(target, rel=0.05)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(target=st.floats(1, 10), max_skip=st.integers(0, 9), each=st.booleans(), steps=st.sampled_from([12, 16, 32]))
def test_laws_of_plans(target, max_skip, each, steps):
    schedule = magi(steps, chunks=6)
    made = planner(schedule, each=each, max_skip=max_skip)
    by_thresholds = made.for_speedup(target)
    assert by_thresholds.speedup <= made.at((0, EVERYTHING)).speedup + 1e-9
    for plan in (by_thresholds, made.placed(target, max_skip, assumed())):
        assert not plan.bound or plan.speedup < target
        skips = 0
        for i, verdict in enumerate(plan.verdicts):
            skips = 0 if verdict.mode.value == "R" else skips + 1
            assert skips <= max_skip
            assert not schedule.clean_prefix(i) or verdict.forwarded == schedule.intervals[i], "clean keys are written"
            assert not schedule.grew(i) or verdict.forwarded[1] == schedule.intervals[i][1], "new chunks get a velocity"
            assert verdict.forwarded[0] == schedule.intervals[i][0]


def test_a_limit_holds_and_a_target_below_one_is_refused():
    made = planner(magi(16), each=True)
    plan = made.for_speedup(3, limit=0.1)
    assert plan.bound and plan.thresholds == (0.0, 0.1) and plan.verdicts == made.at((0.0, 0.1)).verdicts
    for target in (0.5, math.nan):
        for asked in (made.for_speedup, lambda target: made.placed(target, 5, assumed())):
            with pytest.raises(ValueError, match="ask for 1 or more"):
                asked(target)


def test_the_papers_fast_setting_comes_out():
    """257 frames, base 97, overlap 17: 70 + 65 + 65 iterations; two recomputes at growth, one after five skips."""
    first, later = skyreels(), staircase(torch.linspace(999, 1, 50), 25, ar_step=5, pre_ready=5, block=5)
    second = Schedule.of(later, selective=True)
    plans = [planner(schedule).at((0.0, EVERYTHING)) for schedule in (first, second, second)]
    assert [len(plan.verdicts) for plan in plans] == [70, 65, 65]
    assert [plan.modes.count("R") for plan in plans] == [18, 16, 16]


def test_presets_stop_where_few_steps_leave_little():
    tiny = fake_magi()
    model = tiny.make_model(num_steps=16)
    with scope_patch.patched(model, preset="fast", placement="threshold") as run:
        tiny.generate(model)
    (plan,) = check(run)
    assert plan["bound"] and plan["thresholds"] == [0.0, 0.15] and plan["speedup"] < 3
    assert any("on so few steps" in remark for remark in run.report["generations"][0]["remarks"])


def test_a_plan_that_errs_little_spends_less_on_the_first_steps(monkeypatch):
    """In a staircase, or without guidance. Where more is skipped, or nothing cleaner is seen, early ones go first."""
    stairs, in_step = planner(skyreels(ar_step=5)), planner(skyreels(ar_step=0))
    single = planner(skyreels(ar_step=0), guided=False)

    def mean(made, target):
        at = [i for i, verdict in enumerate(made.placed(target, 16, assumed()).verdicts) if verdict.runs]
        return sum(at) / len(at)

    cases = [(stairs, 2), (single, 5), (stairs, 3), (in_step, 2)]
    *later, same, alike = [mean(*case) for case in cases]
    monkeypatch.setattr("scope_patch.method.plan.amplification", lambda *_: AMPLIFICATION)
    *sooner, other, another = [mean(*case) for case in cases]
    assert all(map(gt, later, sooner)) and (same, alike) == (other, another)


@pytest.mark.parametrize("case", ["magi", "skyreels"])
def test_long_plans_come_out_at_what_was_asked_for(case):
    """Hundreds of recomputes, of which each is few parts of the budget."""
    made, target = (magi(chunks=20), 2) if case == "magi" else (skyreels(steps=400), 5.27)
    plan = planner(made).placed(target, 16, assumed())
    assert plan.speedup == pytest.approx(target, rel=0.015) and not plan.bound


def test_who_says_whether_there_is_guidance():
    from registry import framepack_diffusers, longcat_video

    guides, told = type("Pipeline", (), {"do_classifier_free_guidance": True}), []
    framepack, longcat = framepack_diffusers.HOST.guided, longcat_video.HOST.guided
    assert framepack(None, {"true_cfg_scale": 4.0, "negative_prompt": ""}) and longcat(guides, {"prompt": "a disc"})
    assert not framepack(None, {"true_cfg_scale": 4.0}) and not framepack(None, {"negative_prompt": ""})
    assert not longcat(guides, {"stage1_video": None}), "refinement, whatever ran before it"
    planning = Planning.__new__(Planning)
    planning.host, planning.record = SimpleNamespace(guided=lambda *_: 1 / 0), SimpleNamespace(remark=told.append)
    planning.pipeline = planning._arguments = None
    assert planning._guided and "does not say" in told[0]
