"""Does the error that --verify reports say which settings hold? python examples/studies/verify.py [--every 3 7].

On the demo model, at several target speed-ups and --max-skip 8: the PSNR of the setting as it is (against the unpatched
video), the errors of predictions that --verify finds in it without tightening, beside those that the error bound
expects, and with --bounds what becomes of it when --verify tightens at each of those.
"""

from __future__ import annotations

from statistics import fmean, median

from trial import Score, Table, demo, mean, parser

NEVER = 1e9
"""A bound that only what is no number exceeds."""


def main() -> None:
    options = parser(__doc__, 2)
    options.add_argument("--prompt", nargs="+", metavar="TEXT", help="these instead; the seed is the place in the list")
    options.add_argument("--targets", type=float, nargs="+", default=[2, 3, 4, 5, 6])
    options.add_argument("--every", type=int, nargs="+", default=[3, 7])
    options.add_argument("--bounds", type=float, nargs="*", default=[], help="runs that tighten at these, too")
    args = options.parse_args()

    from benchmark.prompts import TUNING

    trial = demo(args.prompt or TUNING[: args.prompts], args.threads)
    numbers = ("true error: median", "largest", "expected: median", "largest")
    table = Table("target", "prompt", "PSNR", "--verify", "verified", *numbers)
    for target in args.targets:
        asked = {"target_speedup": target}
        for prompt in trial.videos:
            plain = trial.score(prompt, **asked)
            for every in args.every:
                found = verified(trial.score(prompt, **asked, verify=every, verify_bound=NEVER))
                rows = ([each[name] for each in found] for name in ("error", "expected"))
                told = [f"{of(row):.3f}" for row in rows for of in (median, max)]
                table.row(f"{target:g}", prompt, f"{plain.psnr:.1f}", every, len(found), *told)
    if not args.bounds:
        return
    print()
    table = Table("target", "--verify", "bound", "above it", "forwards", "PSNR")
    for target in args.targets:
        for every in args.every:
            for bound in (*args.bounds, NEVER):
                scores = trial.scores(target_speedup=target, verify=every, verify_bound=bound)
                above = fmean(sum(each["tightened"] is not None for each in verified(score)) for score in scores)
                forwards = fmean(score.generation["forwards"]["run"] for score in scores)
                name = "none" if bound == NEVER else f"{bound:g}"
                cells = (f"{above:.1f}", f"{forwards:.0f}", f"{mean(scores, 'psnr'):.1f}")
                table.row(f"{target:g}", every, name, *cells)


def verified(score: Score) -> list[dict]:
    return [each for segment in score.generation["segments"] for each in segment["verified"]]


if __name__ == "__main__":
    main()
