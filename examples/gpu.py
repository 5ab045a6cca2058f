"""What scope_patch gives on your card: python examples/gpu.py [--weights DIR] [--steps 50].

The 1.3B configuration of SkyReels-V2 through diffusers, one segment of 97 frames at 544 x 960, bf16, guidance on: the
original, slow, fast, and a target of 6. Told are seconds, peak memory, our own time in a skipped iteration, and whether
our code ever waited for the device. The weights are random unless a folder of the real ones is given
(Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers): time is the same, and only then there is a picture to compare. --tiny
tries the script itself, on a CPU too.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

CASES = {
    "original": None,
    "slow": {"preset": "slow"},
    "fast": {"preset": "fast"},
    "target 6": {"target_speedup": 6},
}
REAL = dict(num_attention_heads=12, ffn_dim=8960, freq_dim=256, text_dim=4096, num_layers=30, inject_sample_info=True)
TINY = {**REAL, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "text_dim": 8, "num_layers": 2}
FP32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")  # what from_pretrained leaves in float32
PROMPT = "A red fox walks through fresh snow at the edge of a birch forest, low winter sun, slow tracking shot."
BYTES = 1e9


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a diffusers folder of the real pipeline")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tiny", action="store_true", help="two thin layers, 64 x 64 pixels: to try the script")
    args = parser.parse_args(argv)

    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        print("no CUDA here: no peak memory, and whether we wait for a device cannot be told")
        if not args.tiny:
            raise SystemExit("the 1.3B model would take hours on a CPU; --tiny tries the script without a card")
    device = torch.device("cuda" if cuda else "cpu")
    print(f"{torch.cuda.get_device_name() if cuda else 'CPU'}, torch {torch.__version__}, {args.steps} steps")
    pipe, given = build(args, device)
    lag = max(1, round(args.steps / 10))
    given |= dict(num_frames=97, base_num_frames=97, ar_step=lag, causal_block_size=5, guidance_scale=6.0)
    generate(pipe, {**given, "num_inference_steps": 10, "ar_step": 1}, device)  # kernels are chosen and loaded here
    given["num_inference_steps"] = args.steps
    original = None
    print("| | seconds | speed-up | DiT forwards | peak GB | ms of ours in a skipped iteration | error of latents |")
    print("|---|---|---|---|---|---|---|")
    for name in args.only:
        latents, seconds, peak, generation, ours = measure(pipe, CASES[name], given, device)
        original = (latents, seconds) if name == "original" else original
        cells = [name, f"{seconds:.2f}", f"{original[1] / seconds:.2f}" if original else ""]
        cells.append("{run} of {baseline}".format(**generation["forwards"]) if generation else "all")
        cells += [f"{peak / BYTES:.2f}" if cuda else "", f"{statistics.median(ours):.2f}" if ours else ""]
        apart = original and name != "original" and args.weights
        cells.append(f"{(latents - original[0]).norm() / original[0].norm():.4f}" if apart else "")
        print("| " + " | ".join(cells) + " |", flush=True)
    if cuda:
        print(waits(pipe, given, device))


def build(args, device):
    """The pipeline on the device, and the arguments of its call that depend on it."""
    import torch
    from diffusers import SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Transformer3DModel, UniPCMultistepScheduler

    size = {"height": 64, "width": 64} if args.tiny else {"height": 544, "width": 960}
    if args.weights:
        pipe = SkyReelsV2DiffusionForcingPipeline.from_pretrained(args.weights, torch_dtype=torch.bfloat16).to(device)
        return pipe, {**size, "prompt": PROMPT}
    torch.manual_seed(0)
    with device:
        model = SkyReelsV2Transformer3DModel(**(TINY if args.tiny else REAL)).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if not any(part in FP32 for part in name.split(".")):
                parameter.data = parameter.data.bfloat16()
        texts = torch.randn(2, 1, 512, model.config.text_dim, dtype=torch.bfloat16)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)
    pipe = SkyReelsV2DiffusionForcingPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=model
    )
    return pipe, {**size, "prompt": None, "prompt_embeds": texts[0], "negative_prompt_embeds": texts[1]}


def generate(pipe, given, device, **more):
    """(latents, seconds by the clock until the device is done)."""
    import torch

    pipe.set_progress_bar_config(disable=True)
    begin = time.perf_counter()
    latents = pipe(
        **given, generator=torch.Generator().manual_seed(0), output_type="latent", return_dict=False, **more
    )[0]
    if device.type == "cuda":
        torch.cuda.synchronize()
    return latents, time.perf_counter() - begin


def measure(pipe, settings, given, device):
    """(latents, seconds, peak bytes, the report's generation or None, ms of ours in every skipped iteration)."""
    import torch

    import scope_patch
    from benchmark.watch import Timed

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    patched = scope_patch.patched(pipe, **settings, strict=True) if settings else contextlib.nullcontext()
    with Timed() as timed, patched as run:
        latents, seconds = generate(
            pipe, given, device, callback_on_step_end=timed.callback, callback_on_step_end_tensor_inputs=[]
        )
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    generation = run.report["generations"][0] if settings else None
    ours = timed.milliseconds(generation["segments"][0]["modes"], "CP", 2) if generation else []
    return latents.float().cpu(), seconds, peak, generation, ours


def waits(pipe, given, device) -> str:
    """Whether our code waited for the device in a short generation, in a sentence."""
    import scope_patch
    from benchmark.watch import no_waiting

    try:
        with no_waiting() as watched, scope_patch.patched(pipe, strict=True):
            generate(pipe, {**given, "num_inference_steps": 10, "ar_step": 1}, device)
    except (RuntimeError, scope_patch.ScopePatchError) as error:
        return f"OUR CODE WAITED for the device: {error}"
    return f"our code never waited for the device ({watched[0]} entries watched)"


if __name__ == "__main__":
    main()
