"""A whole host under us: what runs, what is skipped, what is told; on the fake of the official repository."""

from __future__ import annotations

import pytest
import torch
from hosts import ALWAYS_PREDICT, fake_pipeline

import scope_patch
from scope_patch.errors import NotApplied, ScopePatchError

LONG = {"num_frames": 65, "overlap": 5}


def generate(pipe, **options):
    torch.manual_seed(7)
    return pipe("a disc", **options)


@pytest.mark.parametrize(("options", "branches"), [({}, 2), ({"guidance_scale": 1.0}, 1), (LONG, 2)])
def test_the_signal_and_one_decision_for_all_branches(options, branches):
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True) as run:
        generate(pipe, **options)
    (generation,) = run.report["generations"]
    assert generation["signal"] == "time modulation (torch.fx)"
    iterations = sum(segment["iterations"] for segment in generation["segments"])
    assert generation["forwards"]["baseline"] == branches * iterations
    left = "".join(segment["modes"] for segment in generation["segments"]).count("R")
    assert generation["forwards"]["run"] == branches * left


def test_interval_is_the_prefix_that_is_under_way():
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, cache_threshold=0, predict_threshold=0, selective=True) as run:
        generate(pipe)
    segment = run.report["generations"][0]["segments"][0]
    assert [end for _, end in segment["intervals"]] == [5] * 3 + [10] * 3 + [15] * 3 + [20] * 3 + [25] * 12
    assert set(segment["modes"]) == {"R"} and segment["slots_computed"] < segment["slots_baseline"]
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, selective=False) as run:
        generate(pipe)
    segment = run.report["generations"][0]["segments"][0]
    assert {tuple(interval) for interval in segment["intervals"]} == {(0, 25)}
    assert [i for i, reason in enumerate(segment["reasons"]) if reason == "growth"] == [0, 3, 6, 9, 12]


def test_a_segment_and_a_generation_start_empty():
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, predictor="hold") as run:
        first = generate(pipe, **LONG)
        second = generate(pipe, **LONG)
    assert torch.equal(first, second)
    for generation in run.report["generations"]:
        for segment in generation["segments"]:
            assert segment["modes"].startswith("RR") and segment["reasons"][:2] == ["growth", "history"]


def test_the_report_is_written_when_a_generation_raises(tmp_path):
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, report=str(tmp_path / "run.json")) as run:
        pipe.transformer.calls, pipe.transformer.fail_at = 0, 9
        with pytest.raises(RuntimeError, match="a fake one"):
            generate(pipe)
        assert (tmp_path / "run.json").exists()
    (failed,) = run.report["generations"]
    assert not failed["finished"] and "a fake one" in failed["error"] and failed["forwards"]["run"] == 9


def test_calls_outside_the_loop_are_the_hosts_own():
    pipe = fake_pipeline()
    x, t = torch.randn(1, 4, 25, 4, 4), torch.full((1, 25), 500)
    context = pipe.encode("a disc", torch.float32)
    with scope_patch.patched(pipe, **ALWAYS_PREDICT):
        before = pipe.transformer(x, t, context, fps=[1])
        generate(pipe)
        assert torch.equal(pipe.transformer(x, t, context, fps=[1]), before)
        pipe.generate_timestep_matrix(25, torch.arange(12), 25)


def test_only_the_named_pipeline_is_touched():
    mine, other = fake_pipeline(), fake_pipeline(seed=1)
    expected = generate(fake_pipeline(seed=1))
    with scope_patch.patched(mine, **ALWAYS_PREDICT) as run:
        assert torch.equal(generate(other), expected)
        assert run.report["generations"] == []
        generate(mine)
    with scope_patch.patched(mine.transformer, **ALWAYS_PREDICT) as run:
        generate(mine)
    assert run.report["status"] == "applied"


def test_teacache_is_refused_with_the_reason(caplog):
    pipe = fake_pipeline()
    expected = generate(pipe)
    pipe.transformer.enable_teacache = True
    with scope_patch.patched(pipe, **ALWAYS_PREDICT) as run:
        assert torch.equal(generate(pipe), expected)
    assert run.report["status"] == "not-applied" and "TeaCache" in run.report["reasons"][0]
    assert "TeaCache" in caplog.text
    with scope_patch.patched(pipe, strict=True), pytest.raises(NotApplied, match="TeaCache"):
        generate(pipe)


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda result: (*result, None), "5 things"),
        (lambda result: (result[0], result[1], result[2].long(), result[3]), "int64"),
        (lambda result: (result[0][:, :3], *result[1:]), "timestep matrix"),
        (lambda result: (*result[:3], tuple(result[3])), "a tuple, expected a list"),
    ],
)
def test_a_schedule_that_changed_is_refused(break_it, complaint):
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT) as run:
        result = pipe.generate_timestep_matrix(25, torch.arange(990, 0, -90), 25, 3, 0, 5)
        binding, loop, generation = open_generation(pipe, run)

        def enter():
            loop.returned(binding, break_it(result), generation)
            generation.session.enter(0)

        with pytest.raises(NotApplied, match=complaint):
            enter()
    assert run.report["status"] == "not-applied"


def open_generation(pipe, run):
    """What a call of a pipeline opens: (binding, loop, generation)."""
    from scope_patch.patch.attach import bindings
    from scope_patch.patch.generation import Generation
    from scope_patch.patch.guard import Request

    binding = bindings()["skyreels-v2"]
    loop = binding.host.loop_of(binding.host.videos[0])
    request = Request(run, pipe)
    return binding, loop, Generation(binding.host, loop, request, pipe, binding.agreements, {})


def test_a_failure_of_ours_costs_one_warning_and_no_video(monkeypatch, caplog):
    from scope_patch.patch.session import Session

    expected = generate(fake_pipeline())
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, selective=False) as run:
        monkeypatch.setattr(Session, "serve", lambda *a: 1 / 0)
        assert torch.equal(generate(pipe), expected)
    assert caplog.text.count("scope_patch failed on") == 1 and "ZeroDivisionError" in caplog.text
    assert run.report["status"] == "not-applied" and "ZeroDivisionError" in run.report["reasons"][0]
    with scope_patch.patched(pipe, strict=True), pytest.raises(ScopePatchError, match="ZeroDivisionError"):
        generate(pipe)


def test_nan_velocities_are_counted():
    """The latents they were integrated into are spoilt: no forward mends them, and the plan goes on."""
    pipe = fake_pipeline()
    pipe.transformer.head.bias.fill_(float("nan"))
    with scope_patch.patched(pipe, **ALWAYS_PREDICT) as run:
        generate(pipe)
    generation = run.report["generations"][0]
    modes = generation["segments"][0]["modes"]
    assert generation["guards"]["finite"] == modes.count("P") > 0


def test_history_memory_is_three_points_a_branch_and_is_let_go():
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT) as run:
        generate(pipe)
    assert run.report["generations"][0]["history_bytes_peak"] == 2 * 3 * (4 * 25 * 4 * 4 * 4)


def test_sequence_parallelism_replaces_forward_on_the_instance():
    """As upstream's `use_usp` does; skipped steps must not enter it, or one rank's collectives would wait for ever."""
    import types

    pipe = fake_pipeline()
    entered = []

    def sharded_forward(self, *args, **kwargs):
        entered.append(1)
        return type(self).forward(self, *args, **kwargs)

    pipe.transformer.forward = types.MethodType(sharded_forward, pipe.transformer)
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True) as run:
        generate(pipe)
    assert len(entered) == run.report["generations"][0]["forwards"]["run"] < 48


@pytest.mark.parametrize("path", ["nowhere/run.json", "."])
def test_a_report_that_cannot_be_written_costs_a_warning(path, tmp_path, caplog):
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, report=str(tmp_path / path)) as run:
        generate(pipe)
        generate(pipe)
    assert [generation["finished"] for generation in run.report["generations"]] == [True, True]
    assert "could not be written" in caplog.text and "failed on" not in caplog.text


def test_a_report_goes_through_a_symlink(tmp_path):
    target, link = tmp_path / "real.json", tmp_path / "link.json"
    link.symlink_to(target)
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, report=str(link)):
        generate(pipe)
    assert link.is_symlink() and '"applied"' in target.read_text()


def test_a_seam_that_cannot_be_replaced_leaves_none_replaced(monkeypatch):
    from scope_patch.patch.seams import Ledger

    pipe = fake_pipeline()
    replace, calls = Ledger.replace, []

    def refuse_the_third(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise TypeError("cannot set")
        replace(self, *args)

    before = dict(vars(type(pipe)))
    monkeypatch.setattr(Ledger, "replace", refuse_the_third)
    with pytest.raises(TypeError, match="cannot set"):
        scope_patch.apply(pipe)
    assert dict(vars(type(pipe))) == before
