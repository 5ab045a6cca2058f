"""Forwards against error on the official MAGI-1 loop: python examples/studies/magi.py [--num-frames 240 --steps 64].

At most K skips in a row, by predictor. Needs a clone of github.com/SandAI-org/MAGI-1; everything else runs on a CPU.
The number is ||x - x'|| / ||x'|| of the final latents, x' being those of the unpatched loop with the same noise.
"""

from __future__ import annotations

from trial import ALWAYS, Table, magi, magi_parser, mean


def main() -> None:
    options = magi_parser(__doc__)
    options.add_argument("--skips", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    options.add_argument("--predictors", nargs="+", default=["hold", "taylor1", "taylor2", "momentum", "auto"])
    args = options.parse_args()
    trial = magi(args)
    table = Table("at most", "forwards", "latent frames", *args.predictors)
    for skips in args.skips:
        scores = {name: trial.scores(**ALWAYS, max_skip=skips, predictor=name) for name in args.predictors}
        one = scores[args.predictors[0]][0]
        forwards = "{run} of {baseline}".format(**one.generation["forwards"])
        errors = [f"{mean(each, 'error'):.4f}" for each in scores.values()]
        table.row(f"{skips} skips", forwards, f"{one.slots('computed') / one.slots('baseline'):.0%}", *errors)


if __name__ == "__main__":
    main()
