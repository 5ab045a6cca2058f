"""SkyReels-V2: the fake of the official repository, and diffusers' pipelines, unmodified, around a tiny DiT."""

from __future__ import annotations

from hosts import embeddings, fake_pipeline, tiny_pipeline, tiny_transformer
from hosts import generate as generate_tiny

from . import Subject, film, fixed, picture, seeded, sight, transformer, without

SHORT = {"num_frames": 17, "num_inference_steps": 8, "ar_step": 2, "causal_block_size": 1}


def _prefix(kind):
    import torch

    prefix = torch.linspace(-1, 1, 4 * 5 * 16).view(4, 5, 4, 4)
    return {"short": prefix[:, :5], "whole": prefix, "turned": prefix.flip(1)}[kind]


def make_fake(**_):
    return fake_pipeline()


def generate_fake(pipe, seed, **options):
    for name in ("image", "end_image", "extend"):
        if name in options:
            options[name] = _prefix(options[name])
    seeded(seed)
    if "extend" in options:
        return pipe.extend_video("a disc", options.pop("extend"), **options)
    return pipe("a disc", seed=seed, **options)


FAKE = Subject(
    name="fake official",
    host="skyreels-v2",
    entry="DiffusionForcingPipeline",
    make=make_fake,
    generate=generate_fake,
    model=transformer,
    cases={
        "text": {},
        "guidance off": {"guidance_scale": 1.0},
        "synchronous": {"ar_step": 0, "causal_block_size": 1},
        "image": {"image": "short"},
        "image and noise": {"image": "short", "addnoise_condition": 20},
        "end image": {"end_image": "whole"},
        "both ends": {"image": "whole", "end_image": "turned"},
        "long": {"num_frames": 65, "overlap": 5},
        "long, noised": {"num_frames": 65, "overlap": 5, "addnoise_condition": 20},
        "extended": {"extend": "whole"},
        "16 fps": {"fps": 16},
        "empty negative is the prompt": {"negative_prompt": "a disc"},
    },
    target={"num_inference_steps": 30},
)


def make_forcing(kind="", batch=1, **_):
    # With fps embeddings, diffusers itself fails on a batch of more than one.
    return tiny_pipeline(kind, inject_sample_info=batch == 1)


def generate_forcing(pipe, seed, **options):
    options = without(("kind",), options)
    for name in ("image", "last_image"):
        if name in options:
            options[name] = picture(options[name])
    if "video" in options:
        options["video"] = film(options["video"], 17)
    return generate_tiny(pipe, seed, **options)


def forcing(name, entry, cases, target):
    return Subject(
        name=name,
        host="skyreels-v2-diffusers",
        entry=entry,
        make=make_forcing,
        generate=generate_forcing,
        model=transformer,
        cases=cases,
        target=target,
        interrupts=True,
    )


IMAGE = {**SHORT, "kind": "ImageToVideo", "image": 1, "num_frames": 33}
LONG = {**SHORT, "num_frames": 57, "base_num_frames": 33, "overlap_history": 17, "causal_block_size": 3}
VIDEO = {**LONG, "kind": "VideoToVideo", "video": 2}
FORCING = [
    forcing(
        "diffusers, text",
        "SkyReelsV2DiffusionForcingPipeline",
        {
            "text": SHORT,
            "blocks": {},
            "guidance off": {**SHORT, "guidance_scale": 1.0},
            "synchronous": {**SHORT, "ar_step": 0, "causal_block_size": None},
            "long": LONG,
            "long, noised": {**LONG, "addnoise_condition": 20},
            "batch": {**SHORT, "batch": 2},
            "16 fps": {**SHORT, "fps": 16},
        },
        {"num_inference_steps": 30},
    ),
    forcing(
        "diffusers, image",
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        {"image": IMAGE, "both ends": {**IMAGE, "last_image": 2}},
        {**IMAGE, "num_inference_steps": 30},
    ),
    forcing(
        "diffusers, video",
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        {"video": VIDEO},
        {**VIDEO, "num_inference_steps": 30},
    ),
]


def make_plain(image=False, last_image=False, **_):
    """The pipelines whose latent frames all have one timestep."""
    import diffusers

    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    if not image:
        pipe = diffusers.SkyReelsV2Pipeline(None, None, tiny_transformer(inject_sample_info=False), None, scheduler)
    else:
        dit = tiny_transformer(
            inject_sample_info=False, in_channels=4 + 4 + 4, added_kv_proj_dim=24, image_dim=8,
            pos_embed_seq_len=8 if last_image else None,
        )  # fmt: skip
        encoder, processor = sight(8)
        pipe = diffusers.SkyReelsV2ImageToVideoPipeline(
            tokenizer=None, text_encoder=None, image_encoder=encoder, image_processor=processor,
            transformer=dit, vae=tiny_vae(), scheduler=scheduler,
        )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_vae():
    from diffusers import AutoencoderKLWan

    return fixed(
        0, AutoencoderKLWan, base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )  # fmt: skip


def generate_plain(pipe, seed, image=False, batch=1, guidance=5.0, steps=8, **options):
    from torch.nn.functional import pad

    texts = embeddings(batch)
    if image:  # text is what the last 512 tokens are
        texts = {name: pad(text, (0, 0, 0, 508)) for name, text in texts.items()}
        options["image"] = picture(seed)
        if options.get("last_image"):
            options["last_image"] = picture(seed + 1)
    return pipe(
        height=32, width=32, num_frames=17, num_inference_steps=steps, guidance_scale=guidance, output_type="latent",
        **texts, generator=seeded(seed), **options,
    ).frames  # fmt: skip


def expected_plain(guidance=5.0, steps=8, **_):
    return steps * (2 if guidance > 1 else 1)


def plain(name, entry, cases):
    return Subject(
        name=name,
        host="skyreels-v2-diffusers",
        entry=entry,
        make=make_plain,
        generate=generate_plain,
        model=transformer,
        cases=cases,
        target={**next(iter(cases.values())), "steps": 30},
        expected=expected_plain,
        looks=2,
        interrupts=True,
    )


PLAIN = [
    plain(
        "diffusers, plain text",
        "SkyReelsV2Pipeline",
        {"text": {}, "guidance off": {"guidance": 1.0}, "batch": {"batch": 2}},
    ),
    plain(
        "diffusers, plain image",
        "SkyReelsV2ImageToVideoPipeline",
        {
            "image": {"image": True},
            "guidance off": {"image": True, "guidance": 1.0},
            "both ends": {"image": True, "last_image": True},
        },
    ),
]
SUBJECTS = [FAKE, *FORCING, *PLAIN]
