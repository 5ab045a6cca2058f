"""Which predictor errs least: python examples/predictors.py [--prompts 4].

Along trajectories of the unpatched demo model, every velocity of a skipped iteration is predicted from those of the
recomputed ones, under the schedule "two recomputes when new latent frames enter, then one after every K skips". The
number is ||prediction - velocity|| / ||velocity||, over the latent frames under way, both CFG branches and all prompts.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent))


def recomputed(grew: list[bool], most_skips: int) -> list[bool]:
    """Which iterations run the DiT."""
    out, skips = [], 0
    for i, new in enumerate(grew):
        second = i > 0 and grew[i - 1]
        run = new or second or skips >= most_skips
        skips = 0 if run else skips + 1
        out.append(run)
    return out


def errors(run, most_skips: int, names: list[str]) -> dict[str, list[float]]:
    """{predictor: relative errors} of one recorded generation (see smoothness.Recorder)."""
    import torch

    from scope_patch.method import predictors, schedule
    from scope_patch.method.history import BranchHistory

    made = {name: predictors.create(name) for name in names}
    steps = list(run.iterations())
    ends = schedule.interval_ends(torch.stack([mask for _, mask, _ in steps]))
    runs = recomputed([i == 0 or ends[i] > ends[i - 1] for i in range(len(ends))], most_skips)
    out = defaultdict(list)
    for branch in ("cond", "uncond"):
        history = BranchHistory(3)
        for (inputs, mask, velocity), end, real in zip(steps, ends, runs, strict=True):
            levels = inputs["timestep"][0, :end].double() / 1000
            true, active = velocity[branch][:, :, :end], mask[:end]
            if real:
                history.record((0, end), levels, true)
                continue
            points = history.points((0, end))
            for name, predictor in made.items():
                wrong = history.combine((0, end), predictor.weights(levels, points)) - true
                error = wrong.square().sum((0, 1, 3, 4)) / true.square().sum((0, 1, 3, 4))
                out[name] += error.sqrt()[active].tolist()
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--skips", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    args = parser.parse_args(argv)

    from demo_model import pipeline
    from evaluate import PROMPTS
    from scope_patch.method import predictors
    from smoothness import Recorder

    names = list(predictors.BUILT_IN)
    pipe = pipeline.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    found = defaultdict(lambda: defaultdict(list))
    for seed, prompt in enumerate(PROMPTS[: args.prompts]):
        with Recorder(pipe, pipeline.DEFAULTS["guidance_scale"]) as run:
            pipeline.sample(pipe, prompt, seed=seed)
        for most_skips in args.skips:
            for name, values in errors(run, most_skips, names).items():
                found[most_skips][name] += values
    print("| at most | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for most_skips, row in found.items():
        print(f"| {most_skips} skips | " + " | ".join(f"{fmean(row[name]):.4f}" for name in names) + " |")


if __name__ == "__main__":
    main()
