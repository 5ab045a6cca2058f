"""Which predictor errs least: python examples/studies/predictors.py [--prompts 4].

Along trajectories of the unpatched demo model, every velocity of a skipped iteration is predicted from those of the
recomputed ones, under the schedule "two recomputes when new latent frames enter, then one after every K skips". The
number is ||prediction - velocity|| / ||velocity||, over the latent frames under way, both CFG branches and all prompts.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

from recorder import Recorder, record
from trial import Table, parser


def interval_ends(run: Recorder) -> list[int]:
    """Behind the last latent frame that has come under way, by iteration."""
    ends = [0]
    for mask in run.mask:
        ends.append(max(ends[-1], int(mask.nonzero().max()) + 1))
    return ends[1:]


def recomputed(ends: list[int], most_skips: int) -> list[bool]:
    """Which iterations run the DiT."""
    grew = [i == 0 or end > ends[i - 1] for i, end in enumerate(ends)]
    out, skips = [], 0
    for i, new in enumerate(grew):
        run = new or (i > 0 and grew[i - 1]) or skips >= most_skips
        skips = 0 if run else skips + 1
        out.append(run)
    return out


def errors(run: Recorder, most_skips: int, predictors: dict) -> dict[str, list[float]]:
    """{predictor: relative errors} of one recorded generation."""
    from scope_patch.method.history import BranchHistory

    ends = interval_ends(run)
    steps = list(zip(run.iterations(), ends, recomputed(ends, most_skips), strict=True))
    out = defaultdict(list)
    for branch in ("cond", "uncond"):
        history = BranchHistory(3)
        for step, end, real in steps:
            levels, true = step.levels[:end], step.velocity[branch][:, :, :end]
            if real:
                history.record((0, end), levels, true)
                continue
            points = history.points((0, end))
            for name, predictor in predictors.items():
                wrong = history.combine((0, end), predictor.weights(levels, points)) - true
                error = wrong.square().sum((0, 1, 3, 4)) / true.square().sum((0, 1, 3, 4))
                out[name] += error.sqrt()[step.mask[:end]].tolist()
    return out


def main() -> None:
    options = parser(__doc__, 4)
    options.add_argument("--skips", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    args = options.parse_args()

    import torch

    from benchmark import hosts
    from benchmark.prompts import TUNING
    from scope_patch.method import predictors

    torch.set_num_threads(args.threads)
    pipe = hosts.build("demo")
    tried = {name: predictors.create(name) for name in predictors.BUILT_IN}
    found = {skips: defaultdict(list) for skips in args.skips}
    for seed, prompt in enumerate(TUNING[: args.prompts]):
        run, _ = record(pipe, prompt, seed=seed)
        for skips in args.skips:
            for name, values in errors(run, skips, tried).items():
                found[skips][name] += values
    table = Table("at most", *tried)
    for skips, row in found.items():
        table.row(f"{skips} skips", *(f"{fmean(row[name]):.4f}" for name in tried))


if __name__ == "__main__":
    main()
