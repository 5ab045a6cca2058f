"""Run the unmodified official SkyReels-V2 pipeline on a CPU with a tiny random DiT; a script, started by a test.

    python official_skyreels.py CHECKOUT CASE...     one JSON line a case

CUDA-only kernels are replaced after import; VAE and text encoder are small deterministic stand-ins. What is under test
is upstream's denoise loop and DiT forward. Scenario names are in CASES.
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

SIZE = 32
PREDICT = {"cache_threshold": 0.0, "predict_threshold": 1e9, "max_skip": 5}
STEPS = {"num_inference_steps": 12, "ar_step": 3, "causal_block_size": 5}
CASES = {
    "text": {},
    "paper": {"num_inference_steps": 50, "ar_step": 5},
    "guidance off": {"guidance_scale": 1.0},
    "synchronous": {"ar_step": 0, "causal_block_size": 1},
    "image": {"image": 1, "causal_block_size": 1, "ar_step": 1, "num_frames": 37, "base_num_frames": 37},
    "both ends": {"image": 1, "end_image": 2, "causal_block_size": 1, "ar_step": 1, "num_frames": 37},
    "long": {"num_frames": 177, "overlap_history": 17},
    "long, noised": {"num_frames": 177, "overlap_history": 17, "addnoise_condition": 20},
    "extended": {"extend": True, "num_frames": 161, "overlap_history": 17, "addnoise_condition": 20},
    "block-causal": {"causal": True},
    "offload": {"offload": True},
}


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


def build(upstream, causal=False, offload=False, fps=True):
    pipeline, model, scheduler = upstream
    torch.manual_seed(1234)
    dit = model(
        model_type="t2v", in_dim=16, out_dim=16, dim=48, ffn_dim=96, freq_dim=64, text_dim=32,
        num_heads=2, num_layers=2, inject_sample_info=fps,
    )  # fmt: skip
    torch.nn.init.normal_(dit.head.head.weight, std=0.07)
    if fps:
        torch.nn.init.normal_(dit.fps_projection[-1].weight, std=0.02)
    dit = dit.eval().requires_grad_(False).float()
    for block in dit.blocks:  # CUDA autocast would cast here
        block.self_attn.o.register_forward_pre_hook(lambda module, args: (args[0].to(module.weight.dtype),))
    if causal:
        dit.set_ar_attention(5)
    pipe = pipeline.__new__(pipeline)
    pipe.transformer, pipe.vae, pipe.text_encoder = dit, Vae(), Text()
    pipe.device, pipe.offload, pipe.scheduler, pipe.video_processor = torch.device("cpu"), offload, scheduler(), None
    return pipe


def picture(seed):
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE, 3), dtype="uint8"))


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
    options.pop("causal", None), options.pop("offload", None)
    for name in ("image", "end_image"):
        if name in options:
            options[name] = picture(options[name])
    pipe.vae.decoded.clear()
    torch.manual_seed(seed)
    arguments = {
        "prompt": "a disc", "negative_prompt": "blur", "height": SIZE, "width": SIZE,
        "generator": torch.Generator().manual_seed(seed), **options,
    }  # fmt: skip
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        if arguments.pop("extend", False):
            with tempfile.TemporaryDirectory() as folder:
                pipe.extend_video(prefix_video_path=film(folder), **arguments)
        else:
            pipe(**arguments)
    return torch.cat(pipe.vae.decoded, dim=2)


def check(upstream, options):
    """`never` against the unpatched host, then always-predict: what the report says and what the hooks counted."""
    from hosts import CountForwards

    import scope_patch

    pipe = build(upstream, options.get("causal", False), options.get("offload", False))
    expected = generate(pipe, **options)
    with scope_patch.patched(pipe, policy="never", strict=True) as run:
        never = generate(pipe, **options)
    drawn = torch.random.get_rng_state()
    count = CountForwards(pipe.transformer)
    with scope_patch.patched(pipe, **PREDICT, strict=True) as run:
        made = generate(pipe, **options)
    same_draws = torch.equal(drawn, torch.random.get_rng_state())
    count.remove()
    generation = run.report["generations"][0]
    return {
        "never": torch.equal(expected, never),
        "same draws": same_draws,
        "error": ((made - expected).norm() / expected.norm()).item(),
        "counted": {"forwards": count.forwards, "frames": count.frames, "blocks": count.blocks},
        "generation": generation,
    }


def fail_half_way(upstream):
    """A generation that fails, then `never` and a predicted one, each as if nothing had happened before."""
    import scope_patch

    pipe = build(upstream)
    expected = generate(pipe)
    with scope_patch.patched(pipe, **PREDICT, strict=True) as run:
        predicted = generate(pipe)
        handle = pipe.transformer.blocks[1].register_forward_pre_hook(lambda *a: 1 / 0)
        try:
            generate(pipe)
        except ZeroDivisionError:
            handle.remove()
        again = generate(pipe)
    with scope_patch.patched(pipe, policy="never", strict=True):
        never = generate(pipe)
    return {
        "never": torch.equal(expected, never),
        "predicted": torch.equal(predicted, again),
        "finished": [generation["finished"] for generation in run.report["generations"]],
    }


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


def main():
    import planned_skyreels
    import rivals_skyreels

    upstream = import_upstream(sys.argv[1])
    extra = {
        "fail half-way": lambda: fail_half_way(upstream),
        "teacache": lambda: teacache(upstream),
        "verify": lambda: verify(upstream),
        "upstream's teacache": lambda: {"found": rivals_skyreels.compare(sys.modules[__name__], upstream)},
        "residuals": lambda: {"found": rivals_skyreels.residuals(sys.modules[__name__], upstream)},
        "schedules": lambda: schedules(upstream, 0),
        "plans": lambda: planned_skyreels.compare(sys.modules[__name__], upstream),
        "features": lambda: {
            "differences": planned_skyreels.features(sys.modules[__name__], upstream),
            "other timesteps": planned_skyreels.other_timesteps(upstream),
        },
    }
    for name in sys.argv[2:]:
        if name == "plain":  # what a user's own script does; for runs under the launcher
            result = {"mean": generate(build(upstream)).mean().item()}
        else:
            result = extra[name]() if name in extra else check(upstream, CASES[name])
        print(json.dumps({"case": name, **result}), flush=True)


if __name__ == "__main__":
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    sys.dont_write_bytecode = True  # leave no __pycache__ in upstream's checkout
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    main()
