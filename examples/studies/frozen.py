"""What keeping keys and values of finished latent frames wins: python examples/studies/frozen.py [--full-attention].

On the demo model, the same targets with `--frozen-keys off` and with the default (under full attention: `auto:full`),
on prompts that nothing was chosen on. Work by the cost model (attention dense) and as counted (attention where the mask
lets it through); PSNR to the unpatched video, and the paired difference with its standard error.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev

from trial import Table, demo, mean, parser


def main() -> None:
    options = parser(__doc__, 8)
    options.add_argument("--targets", type=float, nargs="+", default=[1, 3, 4, 5, 6])
    options.add_argument("--full-attention", action="store_true", help="no block-causal mask, as the official default")
    args = options.parse_args()

    from benchmark.prompts import PROMPTS

    host, kept = ("demo, full attention", "auto:full") if args.full_attention else ("demo", "auto")
    trial = demo(PROMPTS[: args.prompts], args.threads, host)
    whole = fmean(made.flops for made in trial.references.values())
    table = Table("asked", "frozen keys", "model", "counted", "forwards", "frames", "MB", "PSNR", "worst", "difference")
    for target in args.targets:
        wanted = {"target_speedup": target} if target > 1 else {"max_skip": 0}
        before: list[float] = []
        for way in ("off", kept):
            scores = trial.scores(frozen_keys=way, **wanted)
            decibels = [min(100.0, score.psnr) for score in scores]
            gained = [now - then for now, then in zip(decibels, before, strict=False)]
            error = stdev(gained) / math.sqrt(len(gained)) if len(gained) > 1 else math.nan
            generation = scores[0].generation
            table.row(
                f"{target:g}" if target > 1 else "nothing skipped",
                way,
                f"{generation['planned'][0]['speedup']:.2f}",
                f"{whole / mean(scores, 'flops'):.2f}",
                generation["forwards"]["run"],
                generation["segments"][0]["slots_computed"],
                f"{generation['frozen_bytes_peak'] / 1e6:.1f}",
                f"{fmean(decibels):.2f}",
                f"{min(decibels):.2f}",
                f"{fmean(gained):.2f} ± {error:.2f}" if gained else "",
            )
            before = decibels


if __name__ == "__main__":
    main()
