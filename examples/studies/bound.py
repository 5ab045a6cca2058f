"""What the error bound of a plan says of its error: python examples/studies/bound.py [--plans 8] [--prompts 2].

For schedules of 4 to 100 steps of the demo model, 37 frames: plans of all kinds (placed under other growth of errors,
other horizons, some recomputes moved), the bound of each, and the relative error of its latents. `ranks` is how much of
the difference between plans of nearly equal work has the sign that the bound says; `spread` the standard deviation of
log(error / bound), over all plans.
"""

from __future__ import annotations

import math
import random
from functools import partial
from itertools import combinations
from statistics import fmean, stdev

from trial import Table, Trial, parser

SCHEDULES = ("4/3/0", "6/5/2", "8/3/0", "12/1/0", "12/3/3", "16/8/0", "20/3/0", "20/8/5", "50/3/0", "50/3/5", "100/3/5")
TARGETS = (1.5, 2, 3, 4, 5, 6)
ALIKE = 1.12  # plans whose work differs by no more are compared


class Plans:
    """In the place of `placement.place`: a random plan, or the one that was made last, and its bound."""

    def __init__(self, seed: int) -> None:
        from scope_patch.method import placement

        self.random, self._placement, self._place = random.Random(seed), placement, placement.place
        self.again: list[bool] | None = None
        self.bound = 0.0

    def __call__(self, schedule, work, budget, errors, *, max_skip):
        if self.again is None:
            power = self.random.choice([0.3, 0.8, 1.4, 2.0])
            other = self._placement.skip_errors(schedule, self.profile, errors.skipped.shape[1], power=power)
            made, _ = self._place(schedule, work, budget, other, max_skip=self.random.choice([2, 3, 5, 8, 16]))
            for _ in range(self.random.choice([0, 0, 1, 2])):
                at, to = self.random.randrange(1, len(made)), self.random.randrange(1, len(made))
                if made[at] and not made[to] and not schedule.grew(at):
                    made[at], made[to] = False, True
            self.again = made
        self.bound = self.of(schedule, self.again, errors)
        return self.again, 0.0  # never futile

    @property
    def profile(self):
        from scope_patch.method.profile import assumed

        return assumed()

    def of(self, schedule, recomputed: list[bool], errors) -> float:
        """The bound of a plan, of the mean latent frame; beyond the reach of `errors` that of its end."""
        total, newest, second = 0.0, 0, 0
        most = errors.skipped.shape[1]
        for i, run in enumerate(recomputed):
            gap, skips = min(newest - second, most + 1), min(i - newest, most)
            if run or schedule.grew(i):
                total += float(errors.again[i, i - newest - 2, gap]) if 1 < i - newest <= most + 1 else 0.0
                newest, second = i, newest
                continue
            total += float(errors.skipped[i, skips - 1, gap])
        return total / int(schedule.mask.any(dim=0).sum())


def main() -> None:
    options = parser(__doc__, 2)
    options.add_argument("--plans", type=int, default=8, help="a schedule (default: %(default)s)")
    options.add_argument("--only", nargs="+", choices=SCHEDULES, default=SCHEDULES, metavar="SCHEDULE")
    args = options.parse_args()

    import torch

    from benchmark.prompts import TUNING
    from demo_model import pipeline
    from scope_patch.method import plan

    torch.set_num_threads(args.threads)
    plan.place = plans = Plans(0)
    table = Table("steps/shift/ar_step", "plans", "bound", "error", "error / bound, geometric mean", "ranks")
    ratios, signs, sizes = [], 0.0, 0.0
    for name in args.only:
        steps, shift, ar_step = map(int, name.split("/"))
        pipe = pipeline.build_pipeline(shift=float(shift))
        pipe.set_progress_bar_config(disable=True)
        make = partial(pipeline.sample, pipe, num_frames=37, num_inference_steps=steps, ar_step=ar_step)
        trial = Trial(pipe, {text: partial(make, text, seed=k) for k, text in enumerate(TUNING[: args.prompts])})
        found = {}
        for _ in range(args.plans):
            plans.again = None
            target, errors = plans.random.choice(TARGETS), []
            for text in trial.videos:
                score = trial.score(text, target_speedup=target)
                errors.append(max(score.error, 1e-6))
            work = score.generation["planned"][0]["work"]
            if math.isfinite(plans.bound) and plans.bound > 0:
                found[tuple(plans.again)] = (work, plans.bound, math.exp(fmean(map(math.log, errors))))
        right = whole = 0.0
        for one, other in combinations(found.values(), 2):
            if max(one[0], other[0]) < ALIKE * min(one[0], other[0]):
                said, was = one[1] - other[1], math.log(one[2] / other[2])
                right, whole = right + abs(was) * (said * was > 0), whole + abs(was)
        signs, sizes = signs + right, sizes + whole
        own = [math.log(error / bound) for _, bound, error in found.values()]
        ratios += own
        spans = (f"{min(column):.2f} to {max(column):.2f}" for column in list(zip(*found.values(), strict=True))[1:])
        table.row(name, len(found), *spans, f"{math.exp(fmean(own)):.2f}", f"{right / whole:.2f}" if whole else "")
    print(f"\nspread {stdev(ratios):.2f}, ranks {signs / max(sizes, 1e-9):.2f}, of {len(ratios)} plans")


if __name__ == "__main__":
    main()
