"""Quality against work on the demo model: python examples/studies/evaluate.py [--prompts 8] [--only NAME ...].

Every setting makes the same videos (prompt, seed) as the unpatched pipeline; the table says what it cost and how near
it came: DiT forwards, latent frames forwarded, DiT FLOPs (counted by hooks, see benchmark/work.py), seconds, PSNR and
SSIM against the unpatched output, on the decoded 8-bit frames. Writes table.md and frames.png.
"""

from __future__ import annotations

import datetime
import platform
from pathlib import Path
from statistics import fmean

from trial import ALWAYS, Table, demo, mean, parser

TWO, FIVE = {**ALWAYS, "max_skip": 2}, ALWAYS
SETTINGS = {
    "slow": {"preset": "slow"},
    "fast": {"preset": "fast"},
    **{
        f"{name}, at most 5 skips": {**FIVE, "predictor": name}
        for name in ("hold", "taylor1", "taylor2", "momentum", "auto")
    },
    **{f"{name}, at most 2 skips": {**TWO, "predictor": name} for name in ("hold", "taylor1", "taylor2", "auto")},
    "auto, at most 5 skips, no selective": {**FIVE, "predictor": "auto", "selective": False},
    "auto, at most 2 skips, no selective": {**TWO, "predictor": "auto", "selective": False},
    **{f"target {x}": {"target_speedup": x} for x in (2, 3, 4, 5)},
    "nothing skipped, selective": {"cache_threshold": 0.0, "predict_threshold": 0.0},
}
HEAD = "setting, forwards, latent frames, DiT TFLOP, ratio, seconds, PSNR, worst, SSIM, error, guards"
SHOWN = ("target 2", "target 3", "target 4", "fast")
SHEETS = 3


def main() -> None:
    options = parser(__doc__, 8)
    options.add_argument("--out", type=Path, default=Path("out/evaluate"))
    options.add_argument("--num-frames", type=int, default=97)
    options.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="these settings alone")
    options.add_argument("--full-attention", action="store_true", help="no block-causal mask, as the official default")
    args = options.parse_args()

    import torch

    from benchmark.prompts import TUNING
    from demo_model.pictures import contact_sheet

    host = "demo, full attention" if args.full_attention else "demo"
    trial = demo(TUNING[: args.prompts], args.threads, host, num_frames=args.num_frames)
    plain = list(trial.references.values())
    films = {(prompt, "unpatched"): made.frames for prompt, made in trial.references.items()}
    made_with = (
        f"{len(plain)} prompts, {args.num_frames} frames, 50 steps, block 5, ar_step 5, "
        f"{'full' if args.full_attention else 'block-causal'} attention; {args.threads} threads of "
        f"{platform.machine()}, torch {torch.__version__}, {datetime.date.today()}. Means."
    )
    print(made_with + "\n")
    table = Table(*HEAD.split(", "))
    flops = fmean(made.flops for made in plain)
    for name in args.only:
        scores = trial.scores(**SETTINGS[name])
        if len(table.lines) == 2:
            forwards, seconds = scores[0].generation["forwards"]["baseline"], fmean(made.seconds for made in plain)
            cells = [forwards, scores[0].slots("baseline"), f"{flops / 1e12:.3f}", "1.00", f"{seconds:.1f}"]
            table.row("unpatched", *cells, *[""] * 5)
        table.row(
            name,
            f"{fmean(score.generation['forwards']['run'] for score in scores):.0f}",
            f"{fmean(score.slots('computed') for score in scores):.0f}",
            f"{mean(scores, 'flops') / 1e12:.3f}",
            f"{flops / mean(scores, 'flops'):.2f}",
            f"{mean(scores, 'seconds'):.1f}",
            f"{mean(scores, 'psnr'):.2f}",
            f"{min(score.psnr for score in scores):.2f}",
            f"{mean(scores, 'ssim'):.4f}",
            f"{mean(scores, 'error'):.4f}",
            f"{fmean(sum(score.generation['guards'].values()) for score in scores):.1f}",
        )
        if name in SHOWN:
            films |= {(prompt, name): score.frames for prompt, score in zip(trial.videos, scores, strict=True)}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text("\n".join([made_with, "", *table.lines]) + "\n")
    names = [name for name in ("unpatched", *SHOWN) if name in ("unpatched", *args.only)]
    rows = [(prompt, name) for prompt in TUNING[: min(args.prompts, SHEETS)] for name in names]
    contact_sheet([(f"{prompt}: {name}", films[prompt, name]) for prompt, name in rows]).save(args.out / "frames.png")


if __name__ == "__main__":
    main()
