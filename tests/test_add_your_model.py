"""A host in no document of ours, added by following docs/patching.md#add-your-model alone, and what the page proves."""

from __future__ import annotations

import pytest
import torch
from conftest import ROOT
from hosting import at_forward

import scope_patch
from scope_patch.cli import main

FILE = str(ROOT / "tests" / "added" / "wan.py")
STEPS = 12


@pytest.fixture
def pipe():
    import diffusers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=32,
            ffn_dim=32, num_layers=2, rope_max_seq_len=32,
        ).eval()  # fmt: skip
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    made = diffusers.WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=network)
    made.set_progress_bar_config(disable=True)
    return made


def generate(pipe, guidance=3.0, batch=1, steps=STEPS):
    text = torch.randn(2, batch, 8, 16, generator=torch.Generator().manual_seed(1))
    return pipe(
        prompt_embeds=text[0], negative_prompt_embeds=text[1], height=32, width=32, num_frames=17, output_type="latent",
        num_inference_steps=steps, guidance_scale=guidance, generator=torch.Generator().manual_seed(2),
    ).frames  # fmt: skip


def test_its_name_stands_nowhere_in_our_documents():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "registry").glob("*.py")]
    assert not [page.name for page in pages if "WanPipeline" in page.read_text()]


def test_doctor_says_that_it_matches_and_what_its_loop_is(capsys):
    main(["doctor", "--registry", FILE])
    told = capsys.readouterr().out.partition("wan-diffusers: ")[2]
    assert "FAILED" not in told and "loop of WanPipeline: a clock" in told and told.count("-> matches") == 1


@pytest.mark.parametrize("options", [{}, {"guidance": 1.0}, {"batch": 2}], ids=["guidance", "no guidance", "batch"])
def test_never_is_bit_identical_and_a_third_is_a_third(pipe, options):
    expected, count = generate(pipe, **options), []
    hook = pipe.transformer.patch_embedding.register_forward_hook(lambda *_: count.append(1))
    with scope_patch.patched(pipe, registry=FILE, strict=True, policy="never"):
        assert torch.equal(generate(pipe, **options), expected)
    whole = len(count)
    assert whole == STEPS * (1 if options.get("guidance") == 1.0 else 2)
    with scope_patch.patched(pipe, registry=FILE, strict=True, target_speedup=3) as run:
        made = generate(pipe, **options)
    hook.remove()
    (generation,) = run.report["generations"]
    ran = len(count) - whole
    assert generation["forwards"] == {"baseline": whole, "run": ran, "skipped": whole - ran} and ran == whole // 3
    assert (made - expected).norm() < 0.5 * expected.norm()


def test_a_generation_that_fails_half_way_is_followed_by_another(pipe):
    with scope_patch.patched(pipe, registry=FILE, strict=True, target_speedup=3):
        usual = generate(pipe)
        hook = at_forward(pipe.transformer, 3, lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            generate(pipe)
        hook.remove()
        assert torch.equal(generate(pipe), usual)


def test_what_its_file_refuses_runs_unpatched(pipe):
    pipe.register_to_config(expand_timesteps=True)
    expected = generate(pipe)
    with scope_patch.patched(pipe, registry=FILE, target_speedup=3) as run:
        assert torch.equal(generate(pipe), expected)
    assert "expand_timesteps" in run.report["reasons"][0]
