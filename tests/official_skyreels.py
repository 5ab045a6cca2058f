"""Run the unmodified official SkyReels-V2 pipeline on a CPU with a tiny random DiT; a script, started by a test.

    python official_skyreels.py CHECKOUT CASE...     one JSON line a case or law, among what upstream prints

CUDA-only kernels are replaced after import; VAE and text encoder are small deterministic stand-ins. What is under test
is upstream's denoise loop and DiT forward. Laws (laws.py) are proven of SUBJECTS.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import types
import warnings
from pathlib import Path

from hosting import Subject, picture, seeded, transformer, without

SIZE = 32
PREDICT = {"cache_threshold": 0.0, "predict_threshold": 1e9, "max_skip": 5}
STEPS = {"num_inference_steps": 12, "ar_step": 3, "causal_block_size": 5}
SHORT = {"num_frames": 57, "base_num_frames": 57}
LONG = {"num_frames": 57, "base_num_frames": 33, "overlap_history": 17, "causal_block_size": 3}
CASES = {
    "text": SHORT,
    "guidance off": {**SHORT, "guidance_scale": 1.0},
    "synchronous": {**SHORT, "ar_step": 0, "causal_block_size": 1},
    "image": {"image": 1, "causal_block_size": 1, "ar_step": 1, "num_frames": 37, "base_num_frames": 37},
    "both ends": {"image": 1, "end_image": 2, "causal_block_size": 1, "ar_step": 1, "num_frames": 37},
    "long": LONG,
    "long, noised": {**LONG, "addnoise_condition": 20},
    "extended": {**LONG, "extend": True, "addnoise_condition": 20},
    "block-causal": {**SHORT, "causal": True},
    "block-causal, one by one": {**SHORT, "causal": True, "causal_block_size": 1, "ar_step": 1},
    "offload": {**SHORT, "offload": True},
}


CHECKOUT = ""
"""The clone, where this runs as a script."""


def import_upstream(checkout):
    """Upstream's modules, with plain PyTorch in place of what needs CUDA."""
    import diffusers.loaders
    import diffusers.models.modeling_utils  # noqa: F401
    import transformers  # noqa: F401 - these probe for torchvision, and must not find the empty one

    for name in ("torchvision", "torchvision.transforms", "dashscope"):  # imported by upstream, not used here
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.path.insert(0, str(checkout))
    import torch
    from skyreels_v2_infer import DiffusionForcingPipeline
    from skyreels_v2_infer.modules import attention, transformer
    from skyreels_v2_infer.scheduler.fm_solvers_unipc import FlowUniPCMultistepScheduler

    def attend(q, k, v, window_size=(-1, -1), **_):
        out = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2).float() for x in (q, k, v)))
        return out.transpose(1, 2).contiguous().to(v.dtype)

    transformer.flash_attention = attention.flash_attention = attend
    transformer.sdp_kernel = lambda **_: contextlib.nullcontext()
    torch.cuda.empty_cache = lambda: None
    # At every autocast to CUDA torch looks for a package that might stand in for it: a quarter of the time spent here.
    torch.cuda.amp.common.amp_definitely_not_available = lambda: True
    return DiffusionForcingPipeline, transformer.WanModel, FlowUniPCMultistepScheduler


class Vae:
    """[1, 16, F, H/8, W/8] latents <-> [1, 3, 4F-3, H, W] video, by repetition and averaging of three channels."""

    def __init__(self):
        self.decoded = []

    def decode(self, z):
        self.decoded.append(z.clone())
        video = z[:, :3].float()
        video = torch.cat([video[:, :, :1], video[:, :, 1:].repeat_interleave(4, dim=2)], dim=2)
        return video.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4).clamp(-1, 1)

    def encode(self, video):
        frames = video[:, :, :: 4 if video.shape[2] > 1 else 1].float()
        small = torch.nn.functional.avg_pool3d(frames, (1, 8, 8))
        return torch.nn.functional.pad(small, (0, 0, 0, 0, 0, 0, 0, 13))


class Text:
    def to(self, device):
        return self

    def cpu(self):
        return self

    def encode(self, prompt):
        generator = torch.Generator().manual_seed(sum(map(ord, str(prompt))) % 9973)
        return torch.randn(1, 8, 32, generator=generator)


@contextlib.contextmanager
def autocast_to_float32():
    """CUDA's autocast to float32, as far as the time embedding goes: linear layers compute in it."""
    from torch.nn import functional

    linear = functional.linear
    functional.linear = lambda x, weight, bias=None: linear(x.float(), weight.float(), bias.float())
    try:
        yield
    finally:
        functional.linear = linear


def tiny_dit(model, fps=True, image=False):
    torch.manual_seed(1234)
    dit = model(
        model_type="i2v" if image else "t2v", in_dim=36 if image else 16, out_dim=16, dim=48, ffn_dim=96, freq_dim=64,
        text_dim=32, num_heads=2, num_layers=2, inject_sample_info=fps,
    )  # fmt: skip
    torch.nn.init.normal_(dit.head.head.weight, std=0.07)
    if fps:
        torch.nn.init.normal_(dit.fps_projection[-1].weight, std=0.02)
    dit = dit.eval().requires_grad_(False).float()
    for block in dit.blocks:  # CUDA autocast would cast here
        block.self_attn.o.register_forward_pre_hook(lambda module, args: (args[0].to(module.weight.dtype),))
    return dit


def build(upstream, causal=False, offload=False, fps=True):
    pipeline, model, scheduler = upstream
    dit = tiny_dit(model, fps)
    if causal:
        dit.set_ar_attention(5)
    pipe = pipeline.__new__(pipeline)
    pipe.transformer, pipe.vae, pipe.text_encoder = dit, Vae(), Text()
    pipe.device, pipe.offload, pipe.scheduler, pipe.video_processor = torch.device("cpu"), offload, scheduler(), None
    return pipe


def film(folder):
    """A short video file to be extended."""
    import imageio
    import numpy as np

    path = Path(folder) / "prefix.mp4"
    frames = np.random.default_rng(3).integers(0, 255, (33, SIZE, SIZE, 3), dtype="uint8")
    imageio.mimwrite(path, frames, fps=24, output_params=["-loglevel", "error"])
    return str(path)


def generate(pipe, seed=0, **options):
    """All latents that were decoded, concatenated over segments, and the video."""
    options = (
        {"num_frames": 97, "guidance_scale": 4.0, "base_num_frames": 97, "shift": 8.0, "fps": 24} | STEPS | options
    )
    options = without(("causal", "offload"), options)
    for name in ("image", "end_image"):
        if name in options:
            options[name] = picture(options[name], SIZE, SIZE)
    pipe.vae.decoded.clear()
    arguments = {
        "prompt": "a disc", "negative_prompt": "blur", "height": SIZE, "width": SIZE, "generator": seeded(seed),
        **options,
    }  # fmt: skip
    with torch.no_grad():
        if arguments.pop("extend", False):
            with tempfile.TemporaryDirectory() as folder:
                pipe.extend_video(prefix_video_path=film(folder), **arguments)
        else:
            pipe(**arguments)
    return torch.cat(pipe.vae.decoded, dim=2)


def make_forcing(**options):
    return build(import_upstream(CHECKOUT), options.get("causal", False), options.get("offload", False))


def generate_forcing(pipe, seed, **options):
    return generate(pipe, seed, **options)


def make_plain(image=False, **_):
    """The pipelines whose latent frames all have one timestep, as their own `__init__` would leave them."""
    import_upstream(CHECKOUT)
    from skyreels_v2_infer.modules.transformer import WanModel
    from skyreels_v2_infer.pipelines import Image2VideoPipeline, Text2VideoPipeline
    from skyreels_v2_infer.scheduler.fm_solvers_unipc import FlowUniPCMultistepScheduler

    owner = Image2VideoPipeline if image else Text2VideoPipeline
    pipe = owner.__new__(owner)
    pipe.transformer = tiny_dit(WanModel, fps=False, image=image)
    pipe.vae, pipe.text_encoder = PlainVae(), Text()
    pipe.scheduler, pipe.sp_size = FlowUniPCMultistepScheduler(), 1
    pipe.device, pipe.offload, pipe.vae_stride, pipe.patch_size = torch.device("cpu"), False, (4, 8, 8), (1, 2, 2)
    if image:
        from diffusers.video_processor import VideoProcessor

        pipe.clip, pipe.video_processor = Clip(), VideoProcessor(vae_scale_factor=16)
    return pipe


class PlainVae(Vae):
    """As these pipelines call it: they decode one video [16, F, H/8, W/8], of which we keep the latents alone."""

    vae = types.SimpleNamespace(z_dim=16)

    def decode(self, z):
        self.decoded.append(z.clone())
        return torch.zeros(1, 3, 1, 8, 8)


class Clip:
    def to(self, device):
        return self

    def encode_video(self, pixels):
        return pixels.mean(dim=(1, 2, 4)).repeat(1, 40)[:, None, :1280].repeat(1, 257, 1)


def generate_plain(pipe, seed, image=False, steps=8, **options):
    pipe.vae.decoded.clear()
    more = {"image": picture(seed, SIZE, SIZE)} if image else {}
    pipe(
        prompt="a disc", negative_prompt="blur", height=SIZE, width=SIZE, num_frames=17, num_inference_steps=steps,
        generator=seeded(seed), **more, **options,
    )  # fmt: skip
    return pipe.vae.decoded[0]


PAPER = {"num_inference_steps": 50, "ar_step": 5}
SUBJECTS = [
    Subject(
        name="official forcing",
        host="skyreels-v2",
        entry="DiffusionForcingPipeline",
        make=make_forcing,
        generate=generate_forcing,
        model=transformer,
        cases=CASES,
        target={**SHORT, **PAPER, "num_inference_steps": 30},
    ),
    *(
        Subject(
            name=f"official plain {kind}",
            host="skyreels-v2",
            entry=f"{kind.capitalize()}2VideoPipeline",
            make=make_plain,
            generate=generate_plain,
            model=transformer,
            cases={kind: case, "guidance of one": {**case, "guidance_scale": 1.0}},
            target={**case, "steps": 30},
            expected=lambda steps=8, **_: 2 * steps,  # both branches, whatever the guidance
            looks=2,
        )
        for kind, case in (("text", {}), ("image", {"image": True}))
    ),
]


def facts(upstream):
    """What tests ask about generations that skip what they can, beside the laws."""
    import scope_patch

    found = {}
    for name, options in {"paper": PAPER, "both ends": CASES["both ends"]}.items():
        pipe = build(upstream)
        expected = generate(pipe, **options)
        with scope_patch.patched(pipe, **PREDICT, selective=True, strict=True) as run:
            made = generate(pipe, **options)
        error = ((made - expected).norm() / expected.norm()).item()
        found[name] = {"error": error, "generation": run.report["generations"][0]}
    return found


def verify(upstream):
    """`--verify 1` over two segments, and `--verify 3` with a bound that everything exceeds."""
    from hosts import CountForwards

    import scope_patch

    options = {**CASES["long"], "num_inference_steps": 20}
    pipe = build(upstream)
    expected, made, found = generate(pipe, **options), {}, {}
    for name, settings in {
        "skipping": {},
        "every": {"verify": 1, "verify_bound": 1e9},
        "tightened": {"verify": 3, "verify_bound": 0.0},
    }.items():
        count = CountForwards(pipe.transformer)
        with scope_patch.patched(pipe, **PREDICT, selective=False, strict=True, **settings) as run:
            made[name] = generate(pipe, **options)
        count.remove()
        found[name] = {"counted": count.forwards, "generation": run.report["generations"][0]}
    return {"equal": torch.equal(made["every"], expected), **found}


def teacache(upstream):
    import scope_patch

    pipe = build(upstream)
    pipe.transformer.initialize_teacache(
        enable_teacache=True, num_steps=24, teacache_thresh=0.1, use_ret_steps=True, ckpt_dir="1.3B"
    )
    with scope_patch.patched(pipe, **PREDICT) as run:
        generate(pipe)
    return run.report


def schedules(upstream, seed, tries=300):
    """Upstream's own function over random options: is ours equal to its masks, and are intervals inside its own?"""
    import random

    from scope_patch.method import schedule

    rng, make, bad = random.Random(seed), upstream[0].generate_timestep_matrix, []
    for _ in range(tries):
        block, blocks, steps = rng.randint(1, 5), rng.randint(1, 6), rng.randint(2, 20)
        ready, ar_step = rng.randrange(blocks) * block, rng.randint(0, steps)
        slots, template = block * blocks, torch.linspace(990, 10, steps)
        matrix, index, mask, intervals = make(None, slots, template, slots, ar_step, ready, block)
        ours = schedule.Schedule.of(schedule.Table(matrix, matrix / 1000, mask, intervals), selective=True)
        if not torch.equal(schedule.update_mask(index, steps, ready), mask) or not ours.selective:
            bad.append([slots, steps, ar_step, block, ready])
    return {"tried": tries, "bad": bad}


class Wide:
    """torch, as a module of upstream's sees it whose bf16 shall be float32: what is exact is then seen to be."""

    bfloat16 = property(lambda self: torch.float32)

    def __getattr__(self, name):
        return getattr(torch, name)


TWO = {"num_frames": 97, "base_num_frames": 57, "overlap_history": 17}
"""Frames in two segments."""
FROZEN = {
    "text": SHORT,
    "257 frames in three segments": {"num_frames": 257, "overlap_history": 17},
    "guidance off": {"guidance_scale": 1.0, **TWO},
    "noised": {**TWO, "addnoise_condition": 20},
}


def frozen(upstream):
    """Block-causal attention with and without kept keys: {case: what came of both}."""
    from skyreels_v2_infer.modules import transformer

    import scope_patch
    from scope_patch.hosts import wan

    found = {}
    for name, options in FROZEN.items():
        for wide in (False, True):
            made, told = {}, {}
            transformer.torch, wan.BF16 = (Wide(), 4) if wide else (torch, 2)
            for kept in ("off", "auto"):
                pipe = build(upstream, causal=True)
                with scope_patch.patched(pipe, strict=True, **{**PREDICT, "max_skip": 1}, frozen_keys=kept) as run:
                    made[kept] = generate(pipe, **options)
                told[kept] = run.report["generations"][0]
            transformer.torch, wan.BF16 = torch, 2
            error = (made["auto"] - made["off"]).double().norm() / made["off"].double().norm()
            found[f"{name}, {'float32' if wide else 'bf16'}"] = {
                "error": float(error),
                "slots": [sum(each["slots_computed"] for each in told[kept]["segments"]) for kept in ("off", "auto")],
                "planned": [plan["frozen_bytes"] for plan in told["auto"]["planned"]],
                "held": told["auto"]["frozen_bytes_peak"],
                "remarks": told["auto"]["remarks"],
            }
    return found


def main():
    import laws
    import official_cost
    import planned_skyreels
    import rivals_skyreels

    upstream, this = import_upstream(CHECKOUT), sys.modules[__name__]
    extra = {
        "facts": lambda: facts(upstream),
        "cost": lambda: official_cost.skyreels(upstream),
        "teacache": lambda: teacache(upstream),
        "verify": lambda: verify(upstream),
        "frozen": lambda: {"found": frozen(upstream)},
        "upstream's teacache": lambda: {"found": rivals_skyreels.compare(this, upstream)},
        "residuals": lambda: {"found": rivals_skyreels.residuals(this, upstream)},
        "schedules": lambda: schedules(upstream, 0),
        "plans": lambda: planned_skyreels.compare(this, upstream),
        "features": lambda: {
            "differences": planned_skyreels.features(this, upstream),
            "other timesteps": planned_skyreels.other_timesteps(upstream),
        },
        "plain": lambda: {"mean": generate(build(upstream)).mean().item()},  # as a user's own script, for the launcher
    }
    for name in sys.argv[2:]:
        if name == "laws":
            for outcome in laws.outcomes(SUBJECTS):
                print(json.dumps({"case": name, **outcome}), flush=True)
        else:
            print(json.dumps({"case": name, **extra[name]()}), flush=True)


if __name__ == "__main__":
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    sys.dont_write_bytecode = True  # leave no __pycache__ in upstream's checkout
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    CHECKOUT = sys.argv[1]
    main()
