"""diffusers' FramePack pipeline, unmodified, around a tiny DiT with random weights."""

from __future__ import annotations

from . import Subject, fixed, picture, seeded, sight, transformer, without

SIZE, CHANNELS = 32, 8


def make(**_):
    import torch
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoFramepackPipeline,
        HunyuanVideoFramepackTransformer3DModel,
    )

    dit = fixed(
        1234, HunyuanVideoFramepackTransformer3DModel, in_channels=CHANNELS, out_channels=CHANNELS,
        num_attention_heads=2, attention_head_dim=16, num_layers=2, num_single_layers=2, num_refiner_layers=1,
        text_embed_dim=24, pooled_projection_dim=12, rope_axes_dim=(4, 6, 6), has_image_proj=True, image_proj_dim=24,
        has_clean_x_embedder=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(dit.proj_out.weight, std=0.5 / dit.proj_out.in_features**0.5)  # velocities of order one
    vae = fixed(
        1235, AutoencoderKLHunyuanVideo, latent_channels=CHANNELS, block_out_channels=(4, 8, 8, 8), layers_per_block=1,
        norm_num_groups=4,
    )  # fmt: skip
    encoder, processor = sight(24)
    pipe = HunyuanVideoFramepackPipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, transformer=dit, vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0), image_encoder=encoder, feature_extractor=processor,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, seed, **options):
    import torch

    options = {"frames": 17, "steps": 8, "sampling_type": "inverted_anti_drifting", "cfg": 1.0, **options}
    text = torch.Generator().manual_seed(seed + 10**6)

    def prompt(length, name):
        return {
            f"{name}_embeds": torch.randn(1, length, 24, generator=text),
            name.replace("prompt", "pooled_prompt") + "_embeds": torch.randn(1, 12, generator=text),
            f"{name}_attention_mask": torch.ones(1, length, dtype=torch.long),
        }

    prompts = prompt(11, "prompt")
    if options["cfg"] > 1:
        prompts.update(prompt(7, "negative_prompt"))
    if "last_image" in options:
        options["last_image"] = picture(options["last_image"])
    more = without(("frames", "steps", "cfg"), options)
    return pipe(
        image=picture(seed), **prompts, height=SIZE, width=SIZE, num_frames=options["frames"], latent_window_size=3,
        num_inference_steps=options["steps"], true_cfg_scale=options["cfg"], guidance_scale=9.0, output_type="latent",
        generator=seeded(seed), **more,
    ).frames[-1]  # fmt: skip


def sections(frames=17, **_):
    return -(-frames // 9)


def expected(steps=8, cfg=1.0, **options):
    return sections(**options) * steps * (2 if cfg > 1 else 1)


SUBJECTS = [
    Subject(
        name="framepack",
        host="framepack-diffusers",
        entry="HunyuanVideoFramepackPipeline",
        make=make,
        generate=generate,
        model=transformer,
        cases={
            "inverted anti-drifting": {},
            "guidance": {"cfg": 4.0},
            "vanilla": {"sampling_type": "vanilla"},
            "vanilla, guidance, three sections": {"sampling_type": "vanilla", "cfg": 4.0, "frames": 25},
            "last picture": {"last_image": 3, "frames": 9},
        },
        target={"steps": 30},
        expected=expected,
        sections=sections,
        looks=2,
        interrupts=True,
    )
]
