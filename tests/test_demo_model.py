"""The demo model in examples/: its parts behave as the pipeline and the training rely on."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WEIGHTS = EXAMPLES / "demo_model" / "weights"

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other people's packages say on import
    pytest.importorskip("diffusers")
    folders = [str(EXAMPLES), str(EXAMPLES / "studies")]
    sys.path[:0] = folders
    try:
        import to_official
        from demo_model import clips, dit, fast_forward, noise_levels, pipeline, text
    finally:
        for folder in folders:
            sys.path.remove(folder)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine two wait for each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vae():
    return pipeline.load_vae()


@pytest.fixture(scope="module")
def model():
    return pipeline.load_dit()


def test_text_is_deterministic_and_binds_colour_to_shape():
    one, other, empty = text.encode_prompts(["a red disc and a blue square", "a blue disc and a red square", ""])
    again = text.encode_prompts(["A red circle, and the blue box"])[0]
    assert one.shape == (text.MAX_TOKENS, text.TEXT_DIM)
    red, other_red = one[0], other[3]
    assert torch.equal(red[:24], other_red[:24])
    assert not torch.equal(red[24:56], other_red[24:56])
    assert empty.abs().sum() == 0
    assert torch.equal(again[:2], one[:2])
    assert text.word_vector("disc", 8).tolist() == [1, 1, -1, 1, -1, 1, 1, -1]


def test_unknown_words_are_named_and_dropped():
    known, unknown = text.split_prompt("a red disc chasing a zebra")
    assert (known, unknown) == (["red", "disc"], ["chasing", "zebra"])


def test_clips_are_drawn_from_their_seed_inside_the_frame():
    prompt, shapes = clips.random_clip(7)
    assert (prompt, shapes) == clips.random_clip(7)
    video = clips.draw(shapes, 120)
    assert video.shape == (3, 120, 64, 64)
    assert torch.equal(video[:, 100:], clips.draw(shapes, 20, start=100))
    border = torch.cat([video[:, :, 0], video[:, :, -1], video[:, :, :, 0], video[:, :, :, -1]])
    assert (border == border.min()).float().mean() > 0.98


def test_vae_has_the_shapes_of_the_pipeline_and_looks_only_back(vae):
    video = clips.draw(clips.random_clip(3)[1], 17)[None]
    latents = vae.encode(video).latent_dist.mode()
    assert latents.shape == (1, vae.config.z_dim, 5, 8, 8)
    decoded = vae.decode(latents, return_dict=False)[0]
    assert decoded.shape == video.shape
    changed = video.clone()
    changed[:, :, 9:] = 0
    assert torch.equal(vae.encode(changed).latent_dist.mode()[:, :, :3], latents[:, :, :3])
    error = ((decoded.clamp(-1, 1) - video) / 2).square().mean()
    assert -10 * torch.log10(error) > 25


def test_weights_are_small_and_slow_in_the_timestep(model):
    files = [f for f in WEIGHTS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 10_000_000
    assert {f.parent.name for f in files if f.suffix == ".safetensors"} == {"dit", "vae"}
    fast = ~dit.slow_columns(model.config.freq_dim, dit.SHORTEST_WAVE)
    assert fast.any()
    assert model.condition_embedder.time_embedder.linear_1.weight[:, fast].abs().max() == 0


@pytest.mark.parametrize("block", [1, dit.BLOCK])
def test_training_forward_equals_diffusers(model, block):
    rng = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 16, 10, 8, 8, generator=rng), torch.rand(2, 10, generator=rng) * 1000
    context = text.encode_prompts(["a red disc", ""])
    model._set_ar_attention(block)
    expected = model(x, t, context, enable_diffusion_forcing=True, return_dict=False)[0]
    mask = fast_forward.block_causal_mask(10, 16, 10 if block == 1 else block)
    found = fast_forward.fast_forward(model, x, t, context, mask, fast_forward.rope_tables(model, x))
    assert torch.allclose(found, expected, atol=1e-4)


def test_noise_levels_are_one_a_block_with_clean_history():
    sigma, weight = noise_levels.sample_noise_levels([0, 3] * 50, 25, torch.Generator().manual_seed(0))
    blocks = sigma.unflatten(1, (5, 5))
    assert torch.equal(blocks, blocks[:, :, :1].expand_as(blocks))
    assert sigma.min() == 0
    assert sigma.max() == 1
    assert sigma[1::2, :5].max() <= 0.021
    assert (weight[sigma == 0] == 0).all()


@pytest.mark.parametrize(("asked", "made"), [(1, 17), (17, 17), (18, 37), (97, 97), (98, 117), (177, 177)])
def test_num_frames_make_whole_blocks(asked, made):
    assert pipeline.fitting_num_frames(asked) == made


def test_every_weight_has_its_own_official_name(model):
    state = model.state_dict()
    renamed = to_official.to_official(state)
    assert len(renamed) == len(state)
    left = ("attn1", "attn2", "to_q", "to_out", "condition_embedder", "scale_shift", "net.", "proj_out")
    assert not [name for name in renamed if any(part in name for part in left)]
