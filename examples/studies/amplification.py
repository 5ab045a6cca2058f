"""How early errors are best weighed: python examples/studies/amplification.py [--host physics] [--values 1 1.5 2].

Plans whose error bound grows by another power, at equal work, on the prompts that are for choosing: PSNR of the frames
at every target, mean over the prompts and over the targets. 0: the power that `placement.amplification` says.
"""

from __future__ import annotations

from statistics import fmean

from trial import Table, asked, demo, parser


def main() -> None:
    options = parser(__doc__, 4, hosts=True)
    options.add_argument("--values", type=float, nargs="+", default=[1.0, 1.5, 2.0, 0])
    options.add_argument("--targets", type=float, nargs="+", default=[2, 3, 4, 5, 6])
    args = options.parse_args()

    from benchmark.hosts import HOSTS
    from scope_patch.method import placement, plan

    trial = demo(HOSTS[args.host].chosen_on[: args.prompts], args.threads, args.host, **asked(args))
    table = Table("value", *(f"target {target:g}" for target in args.targets), "all", "each, by target and prompt")
    for value in args.values:
        plan.amplification = (lambda *_, power=value: power) if value else placement.amplification
        each = [[score.psnr for score in trial.scores(target_speedup=target)] for target in args.targets]
        means = [fmean(row) for row in each]
        shown = "; ".join(" ".join(f"{psnr:.1f}" for psnr in row) for row in each)
        table.row(f"{value:g}" if value else "rule", *(f"{psnr:.1f}" for psnr in means), f"{fmean(means):.2f}", shown)


if __name__ == "__main__":
    main()
