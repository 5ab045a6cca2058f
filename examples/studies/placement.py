"""What placing recomputes wins over thresholds: python examples/studies/placement.py [--targets 2 3 4] [--host magi].

Three ways to spend the same DiT work: thresholds on the signal, as everything was decided once (nothing taken again),
recomputes placed where skipping would err most (the default), and on the demo the same with a profile of the model,
measured on prompts that are not in the table. PSNR and SSIM to the unpatched video, and the latents' relative error.
"""

from __future__ import annotations

import tempfile
from statistics import median

from trial import Table, asked, demo, mean, parser


def main() -> None:
    options = parser(__doc__, 8, hosts=True)
    options.add_argument("--targets", type=float, nargs="+", default=[2, 3, 4, 5, 6])
    args = options.parse_args()

    import scope_patch
    from benchmark.hosts import HOSTS
    from benchmark.prompts import TUNING, TUNING_CALIBRATION
    from demo_model import pipeline

    prompts = TUNING if args.host == "demo" else HOSTS[args.host].filmed
    trial = demo(prompts[: args.prompts], args.threads, args.host, **asked(args))
    with tempfile.TemporaryDirectory() as folder:
        profile = f"{folder}/profile.json"
        ways = {"thresholds": {"placement": "threshold", "replay": False}, "placed": {}}
        if args.host == "demo":
            with scope_patch.patched(trial.target, policy="never", calibrate=profile, strict=True):
                for seed, prompt in enumerate(TUNING_CALIBRATION):
                    pipeline.sample(trial.target, prompt, seed=1000 + seed)
            ways["placed, calibrated"] = {"profile": profile}
        table = Table("asked", "recomputes", "work, times less", "forwards", "PSNR", "median", "worst", "SSIM", "error")
        for target in args.targets:
            for name, way in ways.items():
                scores = trial.scores(target_speedup=target, **way)
                decibels = [score.psnr for score in scores]
                table.row(
                    f"{target:g}",
                    name,
                    f"{scores[0].generation['planned'][0]['speedup']:.2f}",
                    scores[0].generation["forwards"]["run"],
                    f"{mean(scores, 'psnr'):.2f}",
                    f"{median(decibels):.2f}",
                    f"{min(decibels):.2f}",
                    f"{mean(scores, 'ssim'):.4f}",
                    f"{mean(scores, 'error'):.4f}",
                )


if __name__ == "__main__":
    main()
