"""Kept keys and values of finished latent frames: the same video with less work, as planned to the byte."""

from __future__ import annotations

import gc

import planned
import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline
from faults import BLOCKS, Calls, Failure, InjectedError, Warned, place
from hosting.skyreels import IMAGE, LONG, VIDEO, generate_forcing, make_forcing
from hosts import CountForwards, embeddings, generate, tiny_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from no_sync import no_sync
from test_faults import EXCLUDED, GENERATOR
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import scope_patch
from scope_patch.errors import UsageError
from scope_patch.hosts import wan
from scope_patch.hosts.schedules import staircase
from scope_patch.method.decision import Decision, Mode, StepDecision
from scope_patch.method.frozen import Freezing, narrowed, refusal
from scope_patch.method.memory import Anchor
from scope_patch.method.schedule import Schedule
from scope_patch.patch.frozen import Attending
from scope_patch.values import FrozenKeys

EXACT = 100.0
"""Decibels."""
EVERY_OTHER = {"cache_threshold": 0.0, "predict_threshold": 1e9, "max_skip": 1}
SHORT = {"causal_block_size": 3, "ar_step": 2, "num_inference_steps": 8, "num_frames": 57}
HOST = "skyreels-v2-diffusers"


def decibels(made, like):
    error = (made.double() - like.double()).square().mean()
    return float(10 * torch.log10(like.double().square().mean() / error)) if error else torch.inf


def run(pipe, options, make=generate_forcing, **settings):
    """(latents, the report's generation)"""
    with scope_patch.patched(pipe, **{"strict": True, **settings}) as handle:
        made = make(pipe, 0, **options)
    return made, handle.report["generations"][0]


THREE = {"num_frames": 257, "base_num_frames": 97, "overlap_history": 17, "causal_block_size": 5, "ar_step": 3}
CASES = {
    "text": ("", SHORT),
    "guidance off": ("", {**SHORT, "guidance_scale": 1.0}),
    "batch": ("", {**SHORT, "batch": 2}),
    "long": ("", LONG),
    "257 frames in three segments": ("", THREE),
    "image": ("ImageToVideo", {**IMAGE, **SHORT, "num_frames": 45}),
    "both ends": ("ImageToVideo", {**IMAGE, **SHORT, "num_frames": 45, "last_image": 2, "causal_block_size": 2}),
    "video": ("VideoToVideo", VIDEO),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("decided", [EVERY_OTHER, {"max_skip": 0}], ids=["skipping", "nothing skipped"])
def test_the_same_video_with_less_work(case, decided):
    kind, options = CASES[case]
    pipe = make_forcing(kind, options.get("batch", 1))
    like, before = run(pipe, options, frozen_keys="off", **decided)
    counter = CountForwards(pipe.transformer)
    made, after = run(pipe, options, **decided)
    counter.remove()
    assert decibels(made, like) >= EXACT
    forwarded = [sum(each["slots_computed"] for each in one["segments"]) for one in (before, after)]
    assert counter.frames == forwarded[1] < forwarded[0]
    assert [each["modes"] for each in before["segments"]] == [each["modes"] for each in after["segments"]]
    assert after["frozen_bytes_peak"] == max(plan["frozen_bytes"] for plan in after["planned"]) > 0
    assert all(a["speedup"] > b["speedup"] for a, b in zip(after["planned"], before["planned"], strict=True))
    assert all(start for each in after["segments"] for start, _ in each["intervals"][-1:])
    assert not before["frozen_bytes_peak"] and not after["guards"] and "latent frames" not in str(after["remarks"])


def test_flops_are_those_that_ran():
    """Attention is counted dense on both sides."""
    pipe = tiny_pipeline(inject_sample_info=False)
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
        scope_patch.patched(pipe, max_skip=0) as handle,
    ):
        generate(pipe)
    (plan,) = handle.report["generations"][0]["planned"]
    assert counter.get_total_flops() == 2 * plan["work"]
    assert plan["work"] < 0.7 * plan["baseline"]


def test_never_keeps_nothing():
    pipe = tiny_pipeline()
    like = generate(pipe)
    made, report = run(pipe, {}, lambda pipe, seed: generate(pipe), policy="never")
    assert torch.equal(made, like) and report["frozen_bytes_peak"] == 0


@pytest.mark.parametrize("how", ["another tensor", "in place", "another tensor at every step"])
def test_another_prompt_in_mid_run(how):
    """What was kept under the one before is of no use: the forward gets the finished latent frames in front again."""

    def turn(pipe, step, timestep, tensors):
        own = tensors["prompt_embeds"]
        if how == "in place" and step == 16:
            own.mul_(-1)
        elif (how == "another tensor" and step == 16) or how == "another tensor at every step":
            return {"prompt_embeds": own * (1 - 0.01 * step)}
        return {}

    wanted = {"callback_on_step_end": turn, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    made = {}
    for frozen in ("off", "auto"):
        pipe = tiny_pipeline()
        with scope_patch.patched(pipe, strict=True, max_skip=0, frozen_keys=frozen) as handle:
            made[frozen] = generate(pipe, **wanted, **embeddings())
        report = handle.report["generations"][0]
        assert not report["guards"] and report["forwards"]["skipped"] == 0
    assert decibels(made["auto"], made["off"]) >= EXACT
    assert report["frozen_bytes_peak"] <= report["planned"][0]["frozen_bytes"]


@pytest.mark.parametrize("handed", [None, ["latents"], []])
def test_a_callback_that_may_edit_finished_latent_frames(handed):
    """They are then forwarded along, as edited; one that is not handed them edits none."""

    def edit(pipe, step, timestep, tensors):
        return {"latents": 0.9 * tensors["latents"]} if "latents" in tensors else {}

    options = {"callback_on_step_end": edit}
    if handed is not None:
        options["callback_on_step_end_tensor_inputs"] = handed
    expected = generate(tiny_pipeline(), **options)
    pipe = tiny_pipeline()
    with scope_patch.patched(pipe, strict=True, max_skip=0) as handle:
        made = generate(pipe, **options)
    assert decibels(made, expected) >= EXACT
    generation = handle.report["generations"][0]
    edits = handed != []
    assert any("may edit those" in remark for remark in generation["remarks"]) is edits
    assert (generation["frozen_bytes_peak"] == 0) is edits


def test_who_keeps_the_hosts_exception_keeps_no_keys_and_no_velocities():
    """As a notebook does, where the next try needs the memory."""
    pipe, kept, forward = tiny_pipeline(), None, [0]

    def fail(*_):
        forward[0] += 1
        if forward[0] == 20:
            raise InjectedError("on purpose")

    hook = pipe.transformer.register_forward_pre_hook(fail)
    try:
        with scope_patch.patched(pipe, strict=True, **EVERY_OTHER):
            generate(pipe)
    except InjectedError as error:
        kept = error
    hook.remove()
    assert kept is not None and forward[0] == 20
    gc.collect()
    held = [each for each in gc.get_objects() if type(each) in (Attending, Anchor)]
    attending = [each for each in held if type(each) is Attending]
    assert attending, "frames of the exception hold some"
    assert [each for each in held if type(each) is Anchor] == []
    assert not any(block for each in attending for block in each._chunks)


@pytest.mark.parametrize("frames", [0, 4, 5, 12, 100])
def test_no_more_is_kept_than_there_is_room_for(frames):
    pipe = tiny_pipeline()
    one = wan.diffusers_bytes(pipe.transformer, torch.empty(1, 4, 1, 4, 4), 2)
    like, _ = run(pipe, {}, lambda pipe, seed: generate(pipe), frozen_keys="off", **EVERY_OTHER)
    size = str(one * frames + one // 2)
    made, report = run(pipe, {}, lambda pipe, seed: generate(pipe), frozen_keys=size, **EVERY_OTHER)
    kept = min(frames // 5 * 5, 10)
    assert report["frozen_bytes_peak"] == report["planned"][0]["frozen_bytes"] == kept * one
    assert decibels(made, like) >= EXACT
    assert any("no more keys fit" in remark for remark in report["remarks"]) == (frames < 10)


# --- laws ---

tables = st.fixed_dictionaries(
    {
        "blocks": st.integers(1, 5),
        "block": st.integers(1, 3),
        "steps": st.integers(2, 7),
        "ar_step": st.integers(0, 4),
        "ready": st.integers(0, 2),
    }
)


def schedule_of(blocks, block, steps, ar_step, ready):
    frames, ready = (blocks + ready) * block, ready * block
    made = staircase(torch.linspace(999, 1, steps), frames, ar_step=ar_step, block=block, pre_ready=ready)
    return Schedule.of(made, selective=True)


def slow_starts(schedule, recomputed, causal, most):
    """Latent frame by latent frame: kept once its whole block, and all in front of it, are done for good."""
    kept, starts = 0, []
    for i, run in enumerate(recomputed):
        starts.append(kept)
        done = 0
        for slot in range(schedule.mask.shape[1]):
            if any(bool(schedule.mask[k, slot]) for k in range(i, len(recomputed))) or schedule.timesteps[i, slot] > 0:
                break
            done += 1
        if run:
            kept = max(kept, min(done // causal * causal, most // causal * causal))
    return starts


@settings(max_examples=60, deadline=None, derandomize=True)
@given(table=tables, causal=st.integers(1, 3), most=st.integers(0, 12), data=st.data())
def test_starts_are_those_of_a_slow_reference(table, causal, most, data):
    schedule = schedule_of(**table)
    recomputed = data.draw(st.lists(st.booleans(), min_size=len(schedule), max_size=len(schedule)))
    freezing = Freezing.of(schedule, causal, 7, 7 * most + 6)
    starts = freezing.starts(recomputed)
    assert starts == slow_starts(schedule, recomputed, causal, most)
    assert freezing.finished == sorted(freezing.finished) and max(starts) <= most
    for i, start in enumerate(starts):
        assert not schedule.mask[i:, :start].any(), "a latent frame under way is always forwarded"
        assert start < schedule.intervals[i][1]
    used = [start for start, run in zip(starts, recomputed, strict=True) if run]
    assert freezing.held(recomputed) == 7 * max(used, default=0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    start=st.integers(0, 4), other=st.integers(0, 4), end=st.integers(5, 9), runs=st.booleans(), verified=st.booleans()
)
def test_a_verdict_is_narrowed_to_any_start(start, other, end, runs, verified):
    own = Decision(Mode.RECOMPUTE if runs else Mode.PREDICT, "plan")
    skipped = StepDecision({(0, end): own}, (0, 0), own.mode, own.reason)
    whole = StepDecision({(0, end): own}, (0, end if runs else 0), own.mode, own.reason, skipped if verified else None)
    made = narrowed(narrowed(whole, other), start)
    assert made == narrowed(whole, start) and narrowed(whole, 0) == whole
    assert made.forwarded == ((start, end) if runs else (start, start))
    assert list(made.decisions) == [(start, end)] and made.mode_of(end - 1) is own.mode
    assert not verified or made.instead.forwarded == (start, start)


def test_what_cannot_be_kept():
    schedule = schedule_of(2, 2, 4, 2, 1)
    assert refusal(schedule, False, None) == ""
    assert "noise" in refusal(schedule, True, None) and "widths" in refusal(schedule, False, 3)
    assert refusal(schedule_of(2, 2, 4, 2, 0), True, None) == "", "there is nothing that noise is added to"
    template = torch.linspace(999, 1, 4).long()
    made = SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix(None, 8, template, 4, 2, 0, 2)
    assert "window" in refusal(Schedule.of(wan.asynchronous_table(made), selective=True), False, None)


@pytest.mark.parametrize("text", ["", "on", "4XB", "auto:", "off:full", "1GB:drop", "-1"])
def test_words_that_are_no_size(text):
    with pytest.raises(UsageError, match="frozen_keys"):
        FrozenKeys.parse(text)


def test_words():
    assert FrozenKeys.parse("off") is None and FrozenKeys.parse("AUTO") == FrozenKeys()
    assert FrozenKeys.parse("1.5GB:full") == FrozenKeys(1_500_000_000, True) and FrozenKeys.parse("0").size == 0


# --- refused, and said ---


class Processor:
    """Somebody else's."""

    def __init__(self, own):
        self.own = own

    def __call__(self, *args, **kwargs):
        return self.own(*args, **kwargs)


def test_somebody_elses_processor():
    pipe = tiny_pipeline()
    like, _ = run(pipe, {}, lambda pipe, seed: generate(pipe), frozen_keys="off", **EVERY_OTHER)
    attention = pipe.transformer.blocks[1].attn1
    attention.set_processor(Processor(attention.processor))
    made, report = run(pipe, {}, lambda pipe, seed: generate(pipe), **EVERY_OTHER)
    assert torch.equal(made, like) and report["frozen_bytes_peak"] == 0
    assert report["remarks"] == [
        "finished latent frames are forwarded along: its attention processor is a Processor, which we do not know"
    ]


def test_attention_that_is_not_seen(monkeypatch):
    """Planned, and found out by the first forward that was to hand out keys: nothing is lost but the speed-up."""
    from diffusers.models.transformers import transformer_skyreels_v2 as host

    real = host.dispatch_attention_fn
    pipe = tiny_pipeline()
    like, _ = run(pipe, {}, lambda pipe, seed: generate(pipe), frozen_keys="off", **EVERY_OTHER)

    def by_other_means(query, key, value, attn_mask=None, **_):
        with torch._C.DisableTorchFunction():
            return real(query, key, value, attn_mask=attn_mask)

    monkeypatch.setattr(host, "dispatch_attention_fn", by_other_means)
    made, report = run(pipe, {}, lambda pipe, seed: generate(pipe), **EVERY_OTHER)
    assert decibels(made, like) >= EXACT and report["frozen_bytes_peak"] == 0
    assert any("was not seen" in remark for remark in report["remarks"])


def test_noised_conditioning_keeps_the_interval():
    pipe = make_forcing("VideoToVideo")
    noised = {**VIDEO, "addnoise_condition": 20}
    like, _ = run(pipe, noised, frozen_keys="off", **EVERY_OTHER)
    made, report = run(pipe, noised, **EVERY_OTHER)
    assert torch.equal(made, like) and report["frozen_bytes_peak"] == 0
    assert any("--addnoise-condition" in remark for remark in report["remarks"])


def test_full_attention_only_where_it_is_asked_for():
    pipe = tiny_pipeline()
    options = {"causal_block_size": 1, "num_frames": 37, "ar_step": 2}
    make = lambda pipe, seed, **options: generate(pipe, **options)  # noqa: E731
    like, before = run(pipe, options, make, frozen_keys="1GB", **EVERY_OTHER)
    assert before["frozen_bytes_peak"] == 0
    made, after = run(pipe, options, make, frozen_keys="1GB:full", **EVERY_OTHER)
    assert after["frozen_bytes_peak"] == after["planned"][0]["frozen_bytes"] > 0
    assert any("approximate" in remark for remark in after["remarks"])
    assert 10 < decibels(made, like) < EXACT


# --- plan, failures, the device ---


@planned.few
@given(
    blocks=st.integers(2, 3),
    frames=st.integers(33, 60),
    ar_step=st.integers(1, 4),
    overlap=st.sampled_from([None, 9, 13]),
    how=planned.how(),
    more=planned.more(selective=st.booleans(), widths=st.sampled_from([None, None, None, 2])),
    kept=st.sampled_from(["auto", "off", "20KB", "45KB", "0"]),
    noise=st.sampled_from([0, 0, 20]),
)
def test_plan_equals_run(blocks, frames, ar_step, overlap, how, more, kept, noise):
    pipe, decided = tiny_pipeline(), {**how, **more, "frozen_keys": kept}
    options = {
        "causal_block_size": blocks, "num_frames": frames, "ar_step": ar_step, "addnoise_condition": noise,
        "base_num_frames": 33 if overlap else 97, "overlap_history": overlap,
    }  # fmt: skip
    size = {"height": 32, "width": 32, "shift": 3.0, "steps": 9, "guidance_scale": 3.0, "text_tokens": 4}
    shape = wan.WanShape.of(pipe.transformer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(wan.NAMED, "1.3B", shape)
        # Thresholds on the model's signal are compared elsewhere.
        decided["signal"] = "expected"
        told, error = planned.plan(HOST, **options, **size, **decided, dtype="float32")
    with scope_patch.patched(pipe, strict=True, **decided) as handle:
        try:
            generate(pipe, **{**options, "num_inference_steps": 9})
        except (ValueError, RuntimeError):
            assert error
            return
    assert not error
    report = handle.report["generations"][0]
    planned.check(told, report)
    assert told["frozen_bytes"] == report["frozen_bytes_peak"]
    computed = sum(each["slots_computed"] for each in report["segments"])
    assert told["plan"]["slots"]["computed"] == computed
    assert [each for each in told["remarks"] if "finished" in each] == list(
        dict.fromkeys(each for each in report["remarks"] if "finished" in each)
    )


def test_failures_cost_the_speed_up_and_not_the_video():
    """Nothing is skipped, so that whatever of ours fails, and whenever, the latents are the host's own."""
    pipe = tiny_pipeline()
    alone = generate(pipe, **BLOCKS)
    decided = {"max_skip": 0}
    with Calls() as calls, scope_patch.patched(pipe, **decided) as handle:
        made = generate(pipe, **BLOCKS)
    assert decibels(made, alone) >= EXACT and handle.report["generations"][0]["frozen_bytes_peak"]
    with Calls() as outside, scope_patch.patched(pipe, **decided):
        pass
    of = {code: n - outside.of[code] for code, n in calls.of.items() if place(code) not in EXCLUDED}
    own = [
        code for code in of if of[code] > 0 and not code.co_flags & GENERATOR and code.co_filename.endswith("frozen.py")
    ]
    others = [
        code
        for code in of
        if of[code] > 0 and not code.co_flags & GENERATOR and code not in own and "/report/" not in code.co_filename
    ]
    others = sorted(others, key=lambda code: (place(code), code.co_firstlineno))[::40]
    tried, wrong = 0, []
    for code in [*own, *others]:
        for at in sorted({1, of[code] * 2 // 3, of[code] - 1} - {0, -1}):
            hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in pipe.transformer.modules()]
            failure = Failure(code, at, InjectedError("on purpose"))
            with Warned() as warned, scope_patch.patched(pipe, **decided), failure:
                made = generate(pipe, **BLOCKS)
            if failure.seen >= at:
                tried += 1
                now = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in pipe.transformer.modules()]
                if decibels(made, alone) < EXACT or now != hooks or len(warned.said) != 1:
                    wrong.append((place(code), at, decibels(made, alone), now == hooks, warned.said))
    assert wrong == [] and tried > 30


@pytest.mark.parametrize("options", [{}, {"num_frames": 177, "overlap_history": 17}])
def test_no_number_is_looked_at(options):
    pipe = tiny_pipeline()
    with no_sync() as operations, scope_patch.patched(pipe, strict=True, **EVERY_OTHER) as handle:
        generate(pipe, **options)
    assert operations.seen > 500 and handle.report["generations"][0]["frozen_bytes_peak"]
