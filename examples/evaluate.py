"""Quality against work on the demo model: python examples/evaluate.py --out DIR [--prompts 8] [--only NAME ...].

Every setting makes the same videos (prompt, seed) as the unpatched pipeline; the table says what it cost and how near
it came: DiT forwards, latent frames forwarded, DiT FLOPs (counted by hooks, see benchmark/work.py), seconds, PSNR and
SSIM against the unpatched output, on the decoded 8-bit frames. Writes table.md, runs.jsonl (one line a video) and
frames.png.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

PROMPTS = (
    "a red disc and a blue square",
    "a big green ring moving right",
    "a small yellow triangle moving up and a white disc moving left",
    "a magenta square",
    "a white ring and a red triangle",
    "a small blue disc moving down",
    "a big yellow square moving left and a small green disc moving right",
    "a green triangle and a magenta ring",
)
ALWAYS = {
    "cache_threshold": 0.0,
    "predict_threshold": 1e9,
}  # Predict wherever it may be: equal forwards for all predictors
SETTINGS = {
    "slow": {"preset": "slow"},
    "fast": {"preset": "fast"},
    **{
        f"{name}, at most 5 skips": {**ALWAYS, "predictor": name}
        for name in ("hold", "taylor1", "taylor2", "momentum", "auto")
    },
    **{
        f"{name}, at most 2 skips": {**ALWAYS, "predictor": name, "max_skip": 2}
        for name in ("hold", "taylor1", "taylor2", "auto")
    },
    "auto, at most 5 skips, no selective": {**ALWAYS, "predictor": "auto", "selective": False},
    "auto, at most 2 skips, no selective": {**ALWAYS, "predictor": "auto", "max_skip": 2, "selective": False},
    **{f"target {x}": {"target_speedup": x} for x in (2, 3, 4, 5)},
    "nothing skipped, selective": {"cache_threshold": 0.0, "predict_threshold": 0.0},
}
SHOWN = ("unpatched", "target 2", "target 3", "target 4", "fast")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/evaluate"))
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of the prompts")
    parser.add_argument("--num-frames", type=int, default=97)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, help="these settings instead of all")
    parser.add_argument("--full-attention", action="store_true", help="no block-causal mask, as the official default")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)

    import torch

    import scope_patch
    from benchmark.work import Work
    from demo_model import pipeline
    from scope_patch.compare.metrics import psnr, ssim

    torch.set_num_threads(args.threads)
    pipe = pipeline.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    if args.full_attention:  # diffusers switches the mask on wherever a block size is given
        pipe.transformer.register_to_config(num_frame_per_block=1)
        pipe.transformer._set_ar_attention = lambda size: None
    args.out.mkdir(parents=True, exist_ok=True)
    rows, kept = [], []
    with (args.out / "runs.jsonl").open("w") as log:
        for seed, prompt in enumerate(PROMPTS[: args.prompts]):
            begin = time.perf_counter()
            with Work(pipe.transformer) as whole:
                latents = pipeline.sample(pipe, prompt, num_frames=args.num_frames, seed=seed)
            seconds = time.perf_counter() - begin
            reference = pipeline.decode(pipe, latents)[0]
            rows.append({"setting": "unpatched", "prompt": prompt, "seconds": seconds})
            kept.append(("unpatched", prompt, reference))
            for name in args.only or SETTINGS:
                with scope_patch.patched(pipe, **SETTINGS[name], strict=True) as run, Work(pipe.transformer) as work:
                    begin = time.perf_counter()
                    made = pipeline.sample(pipe, prompt, num_frames=args.num_frames, seed=seed)
                    seconds = time.perf_counter() - begin
                generation = run.report["generations"][0]
                video = pipeline.decode(pipe, made)[0]
                kept.append((name, prompt, video))
                rows.append(
                    {
                        "setting": name,
                        "prompt": prompt,
                        "seed": seed,
                        "forwards": generation["forwards"]["run"],
                        "slots": sum(s["slots_computed"] for s in generation["segments"]),
                        "baseline_forwards": generation["forwards"]["baseline"],
                        "baseline_slots": sum(s["slots_baseline"] for s in generation["segments"]),
                        "flops": work.flops,
                        "baseline_flops": whole.flops,
                        "seconds": seconds,
                        "dit": generation["seconds"]["dit"],
                        "overhead": generation["seconds"]["overhead"],
                        "guards": sum(generation["guards"].values()),
                        "psnr": psnr(reference, video),
                        "ssim": ssim(reference, video),
                        "latent_error": ((made - latents).norm() / latents.norm()).item(),
                        "modes": [s["modes"] for s in generation["segments"]],
                    }
                )
                print(json.dumps(rows[-1]), file=log, flush=True)
                print(f"{prompt} | {name}: {rows[-1]['psnr']:.2f} dB", file=sys.stderr)
    text = table(rows, args)
    (args.out / "table.md").write_text(text)
    print(text)
    pictures(kept, args.out / "frames.png")


def table(rows: list[dict], args: argparse.Namespace) -> str:
    """Markdown: one line a setting, means over the videos."""
    import datetime

    import torch

    plain = statistics.fmean(row["seconds"] for row in rows if row["setting"] == "unpatched")
    lines = [
        f"{args.prompts} prompts, {args.num_frames} frames, 50 steps, block 5, ar_step 5, "
        f"{'full' if args.full_attention else 'block-causal'} attention; {args.threads} threads of "
        f"{platform.machine()}, torch {torch.__version__}, {datetime.date.today()}. Means.",
        "",
        "| setting | forwards | latent frames | DiT TFLOP | ratio | seconds | PSNR | worst | SSIM | error | guards |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = list(dict.fromkeys(row["setting"] for row in rows if row["setting"] != "unpatched"))
    first = next(row for row in rows if row["setting"] == names[0])
    lines.append(
        f"| unpatched | {first['baseline_forwards']} | {first['baseline_slots']} "
        f"| {first['baseline_flops'] / 1e12:.3f} | 1.00 | {plain:.1f} | | | | | |"
    )
    for name in names:
        mine = [row for row in rows if row["setting"] == name]
        mean = {
            key: statistics.fmean(row[key] for row in mine) for key in mine[0] if isinstance(mine[0][key], (int, float))
        }
        lines.append(
            f"| {name} | {mean['forwards']:.0f} | {mean['slots']:.0f} | {mean['flops'] / 1e12:.3f} "
            f"| {mean['baseline_flops'] / mean['flops']:.2f} | {mean['seconds']:.1f} | {mean['psnr']:.2f} "
            f"| {min(row['psnr'] for row in mine):.2f} | {mean['ssim']:.4f} | {mean['latent_error']:.4f} "
            f"| {mean['guards']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def pictures(kept: list[tuple], path: Path) -> None:
    """Contact sheets of the first three prompts, a row a setting."""
    from demo_model.pictures import contact_sheet

    rows = [(f"{prompt}: {name}", video) for name, prompt, video in kept if prompt in PROMPTS[:3] and name in SHOWN]
    contact_sheet(rows).save(path)


if __name__ == "__main__":
    main()
