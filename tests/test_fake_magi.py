"""A host that denoises chunk by chunk, under us: on the fake of the official MAGI-1 repository."""

from __future__ import annotations

import itertools

import pytest
import torch
from hosting import Count
from hosting.magi import SUBJECTS
from hosts import ALWAYS_PREDICT, fake_magi

import scope_patch
from scope_patch.errors import NotApplied, ScopePatchError

tiny = fake_magi()
CASES = SUBJECTS[0].cases
RULES = {"whole": {"per_chunk": False}, "timesteps": {"signal": "timestep"}}


def host(case=None, **options):
    """(model, frames of the prefix)"""
    options = dict(options or CASES[case])
    prefix = options.pop("prefix_frames", 0)
    return tiny.make_model(**options), prefix


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_report_counts_equal_what_ran(case, rule):
    """As laws.py says of what is decided chunk by chunk from the expected change."""
    model, prefix = host(case)
    with Count(model) as count, scope_patch.patched(model, **ALWAYS_PREDICT, **RULES[rule], strict=True) as run:
        latents = tiny.generate(model, prefix_frames=prefix)
    assert latents.isfinite().all(), "nothing was read from the cache that had not been written"
    (generation,) = run.report["generations"]
    (segment,) = generation["segments"]
    assert generation["forwards"]["run"] == count.forwards
    assert segment["slots_computed"] == count.frames < segment["slots_baseline"]
    named = {"timesteps": "timestep embedding", "whole": "expected change of the latents"}
    assert generation["signal"] == named[rule]
    assert generation["finished"] and generation["guards"] == {}


@pytest.mark.parametrize("rule", ["each", *RULES])
def test_skipped_forwards_err_little_and_less_than_hold(rule):
    model, _ = host(num_steps=64, num_frames=144)
    expected = tiny.generate(model)
    errors = {}
    for predictor in ("hold", "auto"):
        settings = {**ALWAYS_PREDICT, **RULES.get(rule, {}), "max_skip": 2, "predictor": predictor}
        with scope_patch.patched(model, **settings):
            errors[predictor] = float((tiny.generate(model) - expected).norm() / expected.norm())
    assert errors["auto"] < 0.5 * errors["hold"] < 0.05


def test_every_stage_begins_with_a_forward_of_the_whole_window():
    """Clean keys and values are written there, new chunks enter, and what chunks see changes."""
    model, _ = host(num_steps=64, num_frames=144)
    with scope_patch.patched(model, **ALWAYS_PREDICT, max_skip=20) as run:
        tiny.generate(model)
    (segment,) = run.report["generations"][0]["segments"]
    starts = range(0, segment["iterations"], 16)
    assert [i for i, mode in enumerate(segment["modes"]) if mode == "R"] == list(starts)
    assert [segment["reasons"][i] for i in starts] == ["growth"] * 6 + ["forced"] * 3
    # Six chunks of six latent frames, a window of four; from the fifth stage on with the clean chunk in front.
    assert [segment["intervals"][i] for i in starts] == [
        [0, 6], [0, 12], [0, 18], [0, 24], [0, 30], [6, 36], [12, 36], [18, 36], [24, 36],
    ]  # fmt: skip
    # One velocity of a stage can only be held; it takes two to predict.
    assert set(segment["modes"]) == {"R", "C"}


def test_decisions_chunk_by_chunk_run_the_oldest_chunks_more_often():
    model, _ = host(num_steps=64, num_frames=144)
    settings = {"cache_threshold": 0, "predict_threshold": 0.1, "max_skip": 9}
    with scope_patch.patched(model, **settings) as run:
        tiny.generate(model)
    (segment,) = run.report["generations"][0]["segments"]
    stage = range(80, 96)  # chunks 2 to 5 of 6, behind the clean chunk 1 at the stage's first step
    assert segment["intervals"][80] == [6, 36]
    ran = [segment["intervals"][i] for i in stage if segment["modes"][i] == "R"]
    assert all(start == 12 for start, _ in ran[1:]), "older chunks are seen by younger ones: they always go along"
    assert len({end for _, end in ran[1:]}) > 1, "and the youngest stay out of some forwards"


def test_several_inputs_take_turns_and_do_not_meet():
    model, _ = host("text")
    with scope_patch.patched(model, **ALWAYS_PREDICT) as run:
        alone = tiny.generate(model)
        first, second = tiny.generate_several(model, prefix_frames=(0, 32))
    assert torch.equal(first, alone) and second.isfinite().all()
    assert [segment["iterations"] for segment in run.report["generations"][1]["segments"]] == [28, 32]


def test_a_walk_that_was_given_up_leaves_nothing_behind():
    model, _ = host("video, guidance")
    with scope_patch.patched(model, **ALWAYS_PREDICT, strict=True) as run:
        expected = tiny.generate(model, prefix_frames=32)
        walk = tiny.stream(model, prefix_frames=32)
        next(walk)
        walk.close()
        assert torch.equal(tiny.generate(model, prefix_frames=32), expected)
    given_up = run.report["generations"][1]
    assert not given_up["finished"] and "given up" in given_up["error"]


def test_a_walk_keeps_its_protocol():
    """send, throw and the returned value of a generator, as without us."""
    from scope_patch.patch.guard import relayed

    def inner():
        got = yield 1
        try:
            yield got
        except KeyError:
            yield "caught"
        return "done"

    ended = []
    walk = relayed(inner(), lambda: None, ended.append)
    assert next(walk) == 1 and walk.send("sent") == "sent" and walk.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration) as stop:
        next(walk)
    assert stop.value.value == "done" and ended == [None]
    walk = relayed(inner(), lambda: None, ended.append)
    next(walk)
    with pytest.raises(RuntimeError):
        walk.throw(RuntimeError("theirs"))
    assert str(ended[-1]) == "theirs"


def test_the_generation_is_under_way_only_while_it_works():
    """The caller decodes between two chunks, and may run another generation there."""
    model, other = host("text")[0], host("video, guidance")[0]
    expected, between = tiny.generate(model), tiny.generate(other)
    with scope_patch.patched(model, policy="never"), scope_patch.patched(other, policy="never"):
        chunks = []
        for chunk in tiny.stream(model):
            chunks.append(chunk)
            state = torch.random.get_rng_state()
            assert torch.equal(tiny.generate(other), between)
            torch.random.set_rng_state(state)
    assert torch.equal(torch.cat(chunks, dim=2), expected)


def test_unknown_guidance_runs_unpatched_and_says_so_once(caplog):
    model, _ = host("text")
    expected = tiny.generate(model)
    refuse = dict(vars(model.runtime_config))
    with scope_patch.patched(model, **ALWAYS_PREDICT) as run:
        known = scope_patch.patch.attach.bindings()["magi-1"].host
        object.__setattr__(known, "refuse", lambda transport, model, arguments: "of a test")
        try:
            assert torch.equal(tiny.generate(model), expected)
        finally:
            from scope_patch.hosts import magi

            object.__setattr__(known, "refuse", magi.refuse)
    assert run.report["status"] == "not-applied" and run.report["reasons"] == ["of a test"]
    assert caplog.text.count("of a test") == 1
    assert vars(model.runtime_config) == refuse
    model.runtime_config.cfg_number = 2
    assert "cfg_number 2" in magi.refuse(None, model, {})


@pytest.mark.parametrize("seam", ["serve", "observe", "enter"])
def test_a_failure_of_ours_costs_nothing(seam, monkeypatch, caplog):
    from scope_patch.patch.session import Session

    model, _ = host("video, guidance")
    expected = tiny.generate(model, prefix_frames=32)
    calls = itertools.count()

    def fail(*args):
        raise ValueError("ours")

    def third(original):
        return lambda *args: fail() if next(calls) == 2 else original(*args)

    monkeypatch.setattr(Session, seam, third(getattr(Session, seam)))
    with scope_patch.patched(model, cache_threshold=0, predict_threshold=0) as run:
        assert torch.equal(tiny.generate(model, prefix_frames=32), expected), "every step is recomputed"
    assert caplog.text.count("scope_patch failed on magi-1") == 1
    assert "ours" in run.report["generations"][0]["reasons"][0]
    calls = itertools.count()
    with pytest.raises(ScopePatchError, match="ours"), scope_patch.patched(model, strict=True):
        tiny.generate(model, prefix_frames=32)


def test_a_seam_that_changed_is_named(monkeypatch):
    from inference.pipeline.video_generate import SampleTransport

    original = SampleTransport.forward_velocity
    monkeypatch.setattr(SampleTransport, "forward_velocity", lambda self, index, step: original(self, index, step))
    with pytest.raises(NotApplied, match=r"forward_velocity.*infer_idx, cur_denoise_step"):
        scope_patch.apply(host("text")[0])


def test_few_widths_have_no_say_and_a_remark():
    model, _ = host("text")
    with scope_patch.patched(model, **ALWAYS_PREDICT, strict=True, widths=1) as run:
        tiny.generate(model)
    assert any("--widths has no say" in remark for remark in run.report["generations"][0]["remarks"])
