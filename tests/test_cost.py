"""FLOPs: equal to what PyTorch counts in diffusers' code (of the official ones: test_official_*.py), and the numbers of
the paper's settings."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Transformer3DModel
from hosts import tiny_transformer
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scope_patch.hosts import attention, schedules
from scope_patch.hosts.magi import MagiShape, dispatch_flops, forward_flops
from scope_patch.hosts.schedules import staircase, walk, window_table
from scope_patch.hosts.wan import WanShape
from scope_patch.hosts.wan import forward_flops as wan_flops
from scope_patch.method import schedule

HD = (68, 120)
"""Rows and columns of latents of 544x960 pixels: an eighth."""
# example/4.5B/4.5B_distill_config.json of MAGI-1 @ 6ff822e
MAGI = MagiShape(
    num_layers=34, hidden_size=3072, ffn_hidden_size=12288, num_attention_heads=24, num_query_groups=8,
    kv_channels=128, patch_size=2, t_patch_size=1, in_channels=16, out_channels=16, caption_channels=4096,
    caption_max_length=800, cond_hidden_ratio=0.25, xattn_cond_hidden_ratio=1.0, cond_gating_ratio=1.0,
    gated_linear_unit=False, distill=True,
)  # fmt: skip


def counted(model, size, text, **more):
    """What PyTorch counts in one forward of a diffusers model; attention as two matrix products."""
    config, device = model.config, next(model.parameters()).device
    x = torch.randn(1, config.in_channels, *size, device=device)
    arguments = {
        "hidden_states": x,
        "timestep": torch.zeros(1, size[0], device=device),
        "encoder_hidden_states": torch.randn(1, text, config.text_dim, device=device),
        "enable_diffusion_forcing": True,
        "fps": [0],
        **more,
    }
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**arguments)
    return counter.get_total_flops()


# --- against the real code ---


@pytest.mark.parametrize("size", [(5, 4, 6), (2, 8, 8)])
@pytest.mark.parametrize("block", [1, 2])
def test_diffusers(size, block):
    model = tiny_transformer(num_frame_per_block=block if size[0] % block == 0 else 1)
    shape = dataclasses.replace(WanShape.of(model), text_tokens=12)
    assert wan_flops(shape, *size) == pytest.approx(counted(model, size, 12), rel=0.01)


def test_diffusers_image_to_video():
    model = tiny_transformer(in_channels=8, image_dim=16, added_kv_proj_dim=24, inject_sample_info=False)
    image = torch.randn(1, 257, 16)
    shape = WanShape.of(model)
    assert (shape.image_tokens, shape.image_dim, shape.text_tokens) == (257, 16, 512)
    found = counted(model, (3, 4, 4), 512, encoder_hidden_states_image=image)
    assert wan_flops(shape, 3, 4, 4) == pytest.approx(found, rel=0.01)


def test_the_published_model_without_weights():
    """diffusers' code as wide as the 14B model, on tensors without contents."""
    with torch.device("meta"):
        model = SkyReelsV2Transformer3DModel(
            ffn_dim=13824, num_attention_heads=40, attention_head_dim=128, num_layers=40, inject_sample_info=False
        )
    assert WanShape.of(model) == WanShape.from_config(dict(model.config)) == WanShape.named("14B")
    model.blocks = model.blocks[:2]
    shape = dataclasses.replace(WanShape.named("14B"), layers=2)
    assert wan_flops(shape, 3, 8, 8) == pytest.approx(counted(model, (3, 8, 8), 512), rel=0.01)


def test_no_host_is_imported(run_python):
    code = "import scope_patch.hosts.magi, scope_patch.hosts.wan, sys; print({'diffusers', 'wrapt'} & set(sys.modules))"
    assert run_python("-c", code).stdout.strip() == "set()"


# --- SkyReels-V2 1.3B at 544x960: 257 frames, base 97, overlap 17, 50 steps, block 5, ar_step 5, guidance ---


def segments():
    """(257 - 1) / 4 + 1 = 65 latent frames in segments of 25 that share (17 - 1) / 4 + 1 = 5: three of them."""
    return [staircase(range(981, 0, -20), 25, ar_step=5, block=5, pre_ready=ready) for ready in (0, 5, 5)]


def widths(growth_runs, selective=True):
    """Latent frames of every recompute, a list a segment, in a run that skips five in a row.

    `growth_runs` recomputes from every growth of e on, then one after every five skips.
    """
    made = []
    for segment in segments():
        ends, ran, skipped, since = schedule.interval_ends(segment.mask), [], 0, 0
        for i, end in enumerate(ends):
            since = 0 if i == 0 or end > ends[i - 1] else since + 1
            if since < growth_runs or skipped == 5:
                ran.append(end if selective else 25)
                skipped = 0
            else:
                skipped += 1
        made.append(ran)
    return made


def petaflop(*parts):
    """Both branches of guidance over forwards of so many latent frames, in one list or several."""
    return 2 * sum(wan_flops(WanShape.named("1.3B"), width, *HD) for part in parts for width in part) / 1e15


def test_one_forward():
    """25 * 34 * 60 = 51000 tokens: 30 layers * 4 * 51000^2 * 1536 = 479.4 TFLOP, 78 %, are self-attention.

    Linear layers and attention over those tokens make 611.8; patches, embeddings and the caption's keys and values
    0.17 more. PyTorch counts the same in diffusers' code, on tensors without contents.
    """
    shape, (n, d, layers) = WanShape.named("1.3B"), (51000, 1536, 30)
    total, squares = wan_flops(shape, 25, *HD), layers * attention(n, n, d)
    assert squares == layers * 4 * n * n * d
    blocks = squares + layers * (12 * n * d * d + 4 * n * 512 * d + 4 * n * d * 8960)
    assert blocks / 1e12 == pytest.approx(611.8, abs=0.05)
    assert total / 1e12 == pytest.approx(611.95, abs=0.01) and squares / total == pytest.approx(0.783, abs=0.001)
    with torch.device("meta"):
        model = SkyReelsV2Transformer3DModel(
            ffn_dim=8960, num_attention_heads=12, attention_head_dim=128, num_layers=30, inject_sample_info=True
        )
    assert WanShape.of(model) == shape
    assert counted(model, (25, *HD), 512) == total


def test_original():
    """70 + 65 + 65 iterations of 25 latent frames, two forwards each: 400 * 611.8 = 244.7; with all products 244.78."""
    iterations = [len(segment.mask) for segment in segments()]
    assert iterations == [70, 65, 65]
    assert {interval for segment in segments() for interval in segment.intervals} == {(0, 25)}
    assert petaflop([25] * 200) == pytest.approx(244.78, abs=0.01)


def test_slots():
    """Of 200 * 25 slots: 65 % active, 11 % not started, the rest finished; [0, e) is 89 %."""
    active = sum(int(segment.mask.sum()) for segment in segments())
    waiting = sum(int((segment.timesteps == 999).sum()) for segment in segments())
    ends = sum(sum(schedule.interval_ends(segment.mask)) for segment in segments())
    assert [round(part / 5000, 2) for part in (active, waiting, ends)] == [0.65, 0.11, 0.89]


def test_two_recomputes_at_growth():
    """18 + 16 + 16 = 50 recomputes: e grows five times, then four; 8 follow the last growth of each segment."""
    ran = widths(2)
    assert [len(part) for part in ran] == [18, 16, 16]
    assert petaflop(*ran) == pytest.approx(46.4, abs=0.05)
    assert petaflop([25] * 200) / petaflop(*ran) == pytest.approx(5.27, abs=0.005)


def test_what_the_interval_saves():
    """The same 50 at the full width are 61.2, a quarter of the original: 1.318 times; 1.27 in a continued segment."""
    ours, full = widths(2), widths(2, selective=False)
    assert petaflop(*full) == pytest.approx(61.2, abs=0.05)
    assert petaflop(*full) / petaflop(*ours) == pytest.approx(1.318, abs=0.001)
    assert petaflop(full[1]) / petaflop(ours[1]) == pytest.approx(1.270, abs=0.001)


def test_one_recompute_at_growth():
    """13 + 12 + 12 = 37."""
    ran = widths(1)
    assert [len(part) for part in ran] == [13, 12, 12] and petaflop(*ran) == pytest.approx(37.9, abs=0.05)


# --- MAGI-1 4.5B at 480x480: 240 frames, 64 steps, window 4 ---


def magi_petaflop(ranges, clean):
    """10 chunks of 6 * 30 * 30 = 5400 tokens, distilled: no guidance, a duplicate in the last of four stages.

    The caption counts 128 tokens, which is ours to choose: the prompt of the paper is not known. 50 tokens make
    0.17 less and 200 make 0.15 more.
    """
    tokens = MAGI.chunk_tokens(6, 60, 60)
    walked = list(walk(10, 4, 64, ranges=ranges, clean=clean))
    assert tokens == 5400 and len(walked) == 208 and sum(step.clean_prefix for step in walked) == 9
    blended = [context[-1] for context in window_table(walked, 6, 64, ranges=ranges).contexts]
    assert sum(blended) == 160, "stages 3 .. 12, from t = float32(0.3) > 0.3 on"
    total = 0
    for step, twice in zip(walked, blended, strict=True):
        total += dispatch_flops(MAGI, tokens, step.seen, 128, clean_prefix=bool(step.clean_prefix), duplicate=twice)
    return total / 1e15


def test_magi_without_ranges():
    """Every chunk sees all before it; then `clean_chunk_kvrange` has no say."""
    assert magi_petaflop([], -1) == magi_petaflop([], 1) == pytest.approx(81.2, abs=0.05)


def test_magi_with_the_official_ranges():
    """61.7 if the nine clean chunks still see all before them; 61.26 with upstream's `clean_chunk_kvrange` of 1.

    They see 45 chunks instead of 9, each of 34 layers * 4 * 5400^2 * 3072 = 12.2 TFLOP.
    """
    assert magi_petaflop([5, 4, 3, 2], 10) == pytest.approx(61.7, abs=0.05)
    assert magi_petaflop([5, 4, 3, 2], 1) == pytest.approx(61.26, abs=0.01)


def test_magi_guidance_is_three_forwards():
    given = {"text_tokens": 128, "clean_prefix": True}
    total = dispatch_flops(MAGI, 5400, [(0, 3), (0, 4)], cfg_number=3, duplicate=True, **given)
    each = (([3, 4], [50, 128]), ([3, 4], [50, 50]), ([1], [50]))
    assert total == sum(forward_flops(MAGI, 5400, [5400 * k for k in kv], text) for kv, text in each)


def test_errors_teach():
    with pytest.raises(ValueError, match=r"known: 1\.3B, 14B"):
        WanShape.named("5B")
    with pytest.raises(ValueError, match="hold no patch"):
        wan_flops(WanShape.named("14B"), 1, 1, 8)
    with pytest.raises(ValueError, match="neither"):
        WanShape.of(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="cfg_number 2"):
        dispatch_flops(MAGI, 1, [(0, 1)], 1, cfg_number=2)
    with pytest.raises(ValueError, match="no window"):
        list(walk(3, 4, 8, offset=3))
    with pytest.raises(ValueError, match="do not divide"):
        list(walk(3, 4, 8, ranges=[3, 2, 1]))
    with pytest.raises(ValueError, match="nothing to denoise"):
        staircase(range(50), 10, pre_ready=10)


# --- schedules, without a clone ---


def test_steps_of_a_short_video():
    """Two chunks, window 2, 4 steps: the second enters after two steps; the first goes along, clean, once."""
    t = schedules.magi_timesteps(4)
    assert [(step.start, step.end, step.timesteps, step.clean_prefix) for step in walk(2, 2, 4)] == [
        (0, 1, (t[0],), 0), (0, 1, (t[1],), 0), (0, 2, (t[2], t[0]), 0), (0, 2, (t[3], t[1]), 0),
        (1, 2, (t[2],), 1), (1, 2, (t[3],), 0),
    ]  # fmt: skip
    assert [step.seen for step in walk(2, 2, 4, ranges=[2, 1], clean=1)][2:5] == [
        [(0, 1), (0, 2)],
        [(0, 1), (0, 2)],
        [(0, 1), (1, 2)],
    ]


@given(st.data())
def test_the_staircase_is_that_of_diffusers(data):
    block, blocks, steps = (data.draw(st.integers(1, high)) for high in (4, 5, 9))
    ar_step, ready = data.draw(st.integers(0, steps)), data.draw(st.integers(0, blocks - 1)) * block
    template = torch.linspace(990, 10, steps).long()
    theirs = SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix(
        None, block * blocks, template, block * blocks, ar_step, ready, block
    )
    ours = staircase(template, block * blocks, ar_step=ar_step, pre_ready=ready, block=block)
    assert torch.equal(ours.timesteps, theirs[0]) and torch.equal(ours.mask, theirs[2]) and ours.intervals == theirs[3]
