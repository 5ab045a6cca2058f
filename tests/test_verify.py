"""`--verify`: some skipped steps run all the same; on the fakes of both official repositories and on diffusers."""

from __future__ import annotations

import copy
import inspect
import itertools
import json

import no_sync
import pytest
import torch
from hosting import Count
from hosts import ALWAYS_PREDICT, CountForwards, fake_magi, fake_pipeline, generate, tiny_pipeline

import scope_patch
from scope_patch.report import summary
from scope_patch.report.read import parse

tiny = fake_magi()
HUGE = {"verify_bound": 1e9}
OPTIONS = {
    "official": {"selective": False},
    "official, two segments": {"selective": False},
    "diffusers": {"selective": False},
    "magi": {"per_chunk": False},
    "magi, guidance, prefix": {"per_chunk": False},
}
"""With these every skipped forward is skipped as a whole, and the others are the host's own."""

hosts = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in ("official", "magi") else []) for name in OPTIONS]
)


def host(name):
    """(what is patched, a function that makes a video, a counter of what runs)"""
    if name == "diffusers":
        pipe = tiny_pipeline()
        return pipe, lambda: generate(pipe, num_frames=57), CountForwards(pipe.transformer)
    if name.startswith("magi"):
        model = tiny.make_model(num_steps=16, **({"cfg": 3} if "guidance" in name else {}))
        frames = 32 if "prefix" in name else 0
        return model, lambda: tiny.generate(model, prefix_frames=frames), Count(model)
    pipe = fake_pipeline()
    options = {"num_frames": 65, "overlap": 5} if "two" in name else {}
    return pipe, lambda: pipe("a disc", **options), CountForwards(pipe.transformer)


def report_of(target, make, **settings):
    with scope_patch.patched(target, **settings, strict=True) as run:
        video = make()
    return video, run.report["generations"][0]


def verified(generation):
    """What was verified, of all segments."""
    return [each for segment in generation["segments"] for each in segment["verified"]]


@hosts
def test_verifying_every_skipped_step_is_the_host_itself(name):
    target, make, count = host(name)
    expected = make()
    count.forwards = count.frames = 0
    settings = ALWAYS_PREDICT | OPTIONS[name]
    video, generation = report_of(target, make, **settings, verify=1, **HUGE)
    assert torch.equal(video, expected)
    assert generation["forwards"]["run"] == count.forwards and generation["forwards"]["skipped"] == 0
    assert sum(segment["slots_computed"] for segment in generation["segments"]) == count.frames
    assert all(set(segment["modes"]) == {"R"} for segment in generation["segments"])
    _, skipping = report_of(target, make, **settings)
    assert len(verified(generation)) == sum(len(s["modes"]) - s["modes"].count("R") for s in skipping["segments"])


@pytest.mark.parametrize("more", [HUGE, {"verify_bound": 0.0}])
@hosts
def test_report_counts_equal_what_ran(name, more):
    target, make, count = host(name)
    after = (make(), torch.random.get_rng_state())[1]
    count.forwards = count.frames = 0
    video, generation = report_of(target, make, **ALWAYS_PREDICT, verify=3, **more)
    assert torch.equal(torch.random.get_rng_state(), after) and video.isfinite().all()
    assert generation["forwards"]["run"] == count.forwards
    assert sum(segment["slots_computed"] for segment in generation["segments"]) == count.frames
    for segment in generation["segments"]:
        for each in segment["verified"]:
            assert segment["modes"][each["iteration"]] == "R" and segment["reasons"][each["iteration"]] == "verify"
            if segment.get("slots"):
                assert set(segment["slots"][each["iteration"]]) == {"R"}
    if more is HUGE:
        assert [s["modes"] for s in generation["segments"]] == [plan["modes"] for plan in generation["planned"]]
        assert sum(s["reasons"].count("verify") for s in generation["segments"]) == len(verified(generation)) > 0


def seen(target, make, model, attribute, **settings):
    """{iteration of a segment: true error}: at every skipped forward the host's own forward is run beside it."""
    found = []
    owner = type(model)

    with scope_patch.patched(target, **settings, strict=True) as run:
        patched = vars(owner)[attribute]
        raw = inspect.unwrap(getattr(owner, attribute))

        def spy(self, *args, **kwargs):
            before = run.generations[-1].forwards_skipped
            output = patched.__get__(self, owner)(*args, **kwargs)
            if run.generations[-1].forwards_skipped > before:
                true = raw(self, *args, **kwargs)
                pair = [each if isinstance(each, torch.Tensor) else each[0] for each in (output, true)]
                segments = run.generations[-1].segments
                found.append((len(segments) - 1, len(segments[-1].modes) - 1, *(each.clone() for each in pair)))
            return output

        setattr(owner, attribute, spy)
        try:
            make()
        finally:
            setattr(owner, attribute, patched)
    segments, errors = run.report["generations"][0]["segments"], {}
    for n, i, predicted, true in found:
        start, frames = segments[n]["intervals"][i][0], []
        bounds = segments[n]["active"][i]
        for low, high in zip(bounds[::2], bounds[1::2], strict=True):
            frames += range(low - start, high - start)
        error = (predicted - true)[:, :, frames].norm() / true[:, :, frames].norm()
        errors[n, i] = max(errors.get((n, i), 0.0), float(error))
    return list(errors.items())


@hosts
def test_the_true_error_is_that_of_the_unpatched_forward(name):
    target, make, _ = host(name)
    model, attribute = (target, "forward_dispatcher") if "magi" in name else (target.transformer, "__call__")
    settings = {"cache_threshold": 0.02, "predict_threshold": 1e9, "max_skip": 4}
    settings |= {"per_chunk": False} if "magi" in name else {}
    errors = seen(target, make, model, attribute, **settings)
    for every in (1, 2, 5):
        _, generation = report_of(target, make, **settings, verify=every, **HUGE)
        n, first = next((n, s["verified"][0]) for n, s in enumerate(generation["segments"]) if s["verified"])
        # Up to the first verified step, both runs are the same.
        place, error = errors[every - 1]
        assert (n, first["iteration"]) == place
        assert first["error"] == pytest.approx(error, rel=1e-4) and error > 1e-6
    assert len({round(error, 9) for _, error in errors}) > 6


@hosts
def test_errors_above_the_bound_halve_the_skips_in_a_row(name):
    target, make, _ = host(name)
    settings = {**ALWAYS_PREDICT, "verify": 3, **OPTIONS[name]}
    _, free = report_of(target, make, **settings, **HUGE)
    _, generation = report_of(target, make, **settings, verify_bound=0.0)
    assert all(each["tightened"] is None for each in verified(free))
    first, *more = verified(generation)
    assert {**first, "tightened": None} == verified(free)[0]
    assert [first["tightened"], *(each["tightened"] for each in more)] == [1, 0], (
        "3 in a row, the verified one with them"
    )
    row, most = 0, 3
    for segment in generation["segments"]:
        caps = {each["iteration"]: each["tightened"] for each in segment["verified"]}
        for i, mode in enumerate(segment["modes"]):
            row = row + 1 if mode != "R" else 0
            assert row <= most
            most = caps.get(i, most)
    assert generation["forwards"]["run"] > free["forwards"]["run"]
    assert any(plan.get("tightened", 0) > 0 for plan in generation["planned"])


def test_what_tightening_adds_is_in_the_speed_up_that_is_told():
    pipe = tiny_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, verify=3, verify_bound=0.0, strict=True) as run:
        generate(pipe)
    (generation,) = run.report["generations"]
    (plan,), (segment,) = generation["planned"], generation["segments"]
    with scope_patch.patched(pipe, cache_threshold=0, predict_threshold=0, strict=True) as whole:
        generate(pipe)
    everything = whole.report["generations"][0]["planned"][0]["work"]
    assert plan["work"] < plan["work"] + plan["tightened"] < everything
    told = plan["baseline"] / (plan["work"] + plan["tightened"])
    assert f"DiT work 1/{told:.2f} by the cost model" in "\n".join(summary.lines(run))
    assert segment["modes"] != plan["modes"]


def test_a_velocity_that_is_no_number_is_above_any_bound():
    pipe = fake_pipeline()
    _, free = report_of(pipe, lambda: pipe("a disc"), **ALWAYS_PREDICT, verify=3, **HUGE)
    place, calls = verified(free)[0]["iteration"], itertools.count()
    runs = 2 * free["segments"][0]["modes"][:place].count("R")  # two branches

    def spoil(module, args, output):
        return output * float("nan") if next(calls) == runs + 1 else output

    handle = pipe.transformer.head.register_forward_hook(spoil)
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, verify=3, **HUGE, strict=True) as run:
        pipe("a disc")
    handle.remove()
    first = verified(run.report["generations"][0])[0]
    assert (first["iteration"], first["error"], first["tightened"]) == (place, None, 1)
    json.dumps(run.report, allow_nan=False)
    assert "above 1e+09" in "\n".join(summary.lines(run))


REFUSED = {
    "residual": ({"level": "residual", **ALWAYS_PREDICT}, "at the residual level"),
    "never": ({"policy": "never"}, "policy never skips nothing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_where_it_cannot_be_had_the_run_goes_on_without_and_says_why(case):
    settings, why = REFUSED[case]
    pipe = fake_pipeline()
    expected, plain = report_of(pipe, lambda: pipe("a disc"), **settings)
    video, generation = report_of(pipe, lambda: pipe("a disc"), **settings, verify=1)
    assert torch.equal(video, expected) and verified(generation) == []
    (remark,) = set(generation["remarks"]) - set(plain["remarks"])
    assert remark.startswith(f"no skipped step is verified: {why}")
    assert generation["segments"][0]["modes"] == plain["segments"][0]["modes"]


def test_too_few_skips_are_said():
    pipe = fake_pipeline()
    _, generation = report_of(pipe, lambda: pipe("a disc"), **ALWAYS_PREDICT, verify=1000)
    assert "no skipped step was verified: fewer than 1000 were skipped" in generation["remarks"]


def test_inputs_of_one_walk_are_verified_each_for_itself():
    model = tiny.make_model()
    settings = {**ALWAYS_PREDICT, "verify": 3, "per_chunk": False}
    with scope_patch.patched(model, **settings, strict=True) as run:
        tiny.generate_several(model, prefix_frames=(0, 32))
    together = [segment["verified"] for segment in run.report["generations"][0]["segments"]]
    places = [[each["iteration"] for each in one] for one in together]
    for frames, found in zip((0, 32), places, strict=True):
        with scope_patch.patched(model, **settings, **HUGE) as run:
            tiny.generate(model, prefix_frames=frames)
        alone = [each["iteration"] for each in verified(run.report["generations"][0])]
        assert found[0] == alone[0] and len(found) <= len(alone)


@pytest.mark.parametrize("name", ["official", "diffusers", "magi"])
def test_only_verified_steps_wait_for_the_device_once_each(name, monkeypatch):
    from scope_patch.patch.measured import Verification

    target, make, _ = host(name)
    make()
    waits, settle = [], Verification.settle

    def counted(self):
        waits.append(bool(self._sizes))
        return settle(self)

    monkeypatch.setattr(Verification, "settle", counted)
    # What `step` reads are tables on the CPU.
    monkeypatch.setattr(no_sync, "MAY", no_sync.MAY | {("measured.py", "settle"), ("measured.py", "step")})
    with scope_patch.patched(target, **ALWAYS_PREDICT, verify=3, **HUGE, strict=True) as run:
        make()
        with no_sync.no_sync() as operations:
            make()
    both = [verified(generation) for generation in run.report["generations"]]
    assert operations.seen > 100 and sum(waits) == len(both[0]) + len(both[1]) > 2 and both[0] == both[1]


def test_a_report_goes_back_into_a_record_and_a_damaged_one_is_named():
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, verify=3, verify_bound=0.0) as run:
        pipe("a disc")
    told = json.loads(json.dumps(run.report))
    again = parse(told).run
    assert again.generations[0].segments[0].verified == run.generations[0].segments[0].verified != []
    assert summary.lines(again)[:6] == summary.lines(run)[:6]
    for name, value in (("iteration", 999), ("error", -1.0), ("expected", "much"), ("tightened", 1.5)):
        bad = copy.deepcopy(told)
        bad["generations"][0]["segments"][0]["verified"][0][name] = value
        with pytest.raises(scope_patch.errors.UsageError, match="'verified'"):
            parse(bad)
