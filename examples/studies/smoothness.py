"""How smooth a small model is: python examples/studies/smoothness.py [--host physics|magi].

1. Along real sampling trajectories: the velocity of a latent frame (MAGI-1: of a chunk, within a stage) is predicted
   from those 1, 2 and 3 strides earlier, by holding, by first order and by second order (Newton form) in the noise
   level. The number is ||prediction - velocity|| / ||velocity||, over all that have that much history.
2. At a fixed x (not MAGI-1): the relative change of the velocity when only the timestep of the moving slots is lowered
   (by 1, 2, 5, 20).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from recorder import Recorder, record, record_magi
from trial import Table, parser

if TYPE_CHECKING:
    from torch import Tensor

STRIDES = (1, 2, 3, 5)
BRANCHES = ("cond", "uncond", "guided")
ORDERS = ("hold", "taylor1", "taylor2")
MIDDLE = 0.3  # below it the sampler takes its widest steps, six of fifty at shift 3
LOWERED = (1, 2, 5, 20)
EVERY = 6  # at a fixed x: one of so many iterations


def predict(levels, velocities, order: int, level):
    """Newton's polynomial of an order through the newest order + 1 points, at a noise level."""
    value, factor = velocities[0], 1.0
    table = list(velocities)
    for n in range(1, order + 1):
        table = [(table[i] - table[i + 1]) / (levels[i] - levels[i + n]) for i in range(len(table) - 1)]
        factor = factor * (level - levels[n - 1])
        value = value + factor * table[0]
    return value


def errors(levels: Tensor, velocities: Tensor, stride: int) -> Tensor:
    """Rows of noise level and relative error of hold, first and second order, [velocities, 4], of one trajectory.

    Args:
        levels: [steps]; velocities: [steps, elements].
    """
    import torch

    rows = []
    for i in range(3 * stride, len(levels)):
        past = [i - n * stride for n in (1, 2, 3)]
        at, values, now = levels[past], velocities[past], velocities[i]
        missed = [float((predict(at[: k + 1], values[: k + 1], k, levels[i]) - now).norm()) for k in range(3)]
        rows.append([float(levels[i]), *(each / float(now.norm()) for each in missed)])
    return torch.tensor(rows).reshape(-1, 4)


def trajectories(run: Recorder, branch: str) -> Iterator[tuple[Tensor, Tensor]]:
    """(noise levels, velocities) of every latent frame, over the iterations that update it."""
    import torch

    steps = list(run.iterations())
    for slot in range(len(steps[0].mask)):
        mine = [step for step in steps if step.mask[slot]]
        if mine:
            velocities = [step.velocity[branch][0, :, slot].flatten().double() for step in mine]
            yield torch.stack([step.levels[slot] for step in mine]), torch.stack(velocities)


def fixed_input_changes(run: Recorder) -> dict[int, list[float]]:
    """{timesteps lowered by: relative changes of the velocity at the same x}, over moving slots."""
    import torch

    changes = {lower: [] for lower in LOWERED}
    for i, step in enumerate(run.iterations()):
        moving = step.mask & (step.inputs["timestep"][0] > max(LOWERED))
        if i % EVERY or not moving.any():
            continue
        for lower in LOWERED:
            t = step.inputs["timestep"].clone()
            t[0, moving] -= lower
            with torch.no_grad():
                v = run.forward(**{**step.inputs, "timestep": t})[0]
            before = step.velocity["cond"][:, :, moving]
            changes[lower].append(((v[:, :, moving] - before).norm() / before.norm()).item())
    return changes


def main() -> None:
    options = parser(__doc__, 4)
    options.add_argument("--host", default="demo", help="one of benchmark/hosts.py (default: %(default)s)")
    options.add_argument("--weights", type=Path, help="others than the host's (not MAGI-1)")
    options.add_argument("--ar-step", type=int, default=5)
    args = options.parse_args()

    import torch

    from benchmark import hosts
    from benchmark.prompts import TUNING

    torch.set_num_threads(args.threads)
    rows, fixed = defaultdict(list), defaultdict(list)
    if hosts.HOSTS[args.host].magi:
        film = hosts.film(args.host)
        for seed, prompt in enumerate(hosts.HOSTS[args.host].filmed[: args.prompts]):
            for levels, velocities in record_magi(film, prompt, seed):
                for stride in STRIDES:
                    rows["guided", stride].append(errors(levels, velocities, stride))
    else:
        pipe = hosts.build(args.host, args.weights)
        prompts = hosts.HOSTS[args.host].filmed if args.host == "physics" else TUNING
        for seed, prompt in enumerate(prompts[: args.prompts]):
            run, _ = record(pipe, prompt, seed=seed, ar_step=args.ar_step)
            for branch in BRANCHES:
                for levels, velocities in trajectories(run, branch):
                    for stride in STRIDES:
                        rows[branch, stride].append(errors(levels, velocities, stride))
            for lower, values in fixed_input_changes(run).items():
                fixed[lower] += values
    for branch in dict.fromkeys(branch for branch, _ in rows):
        data = [torch.cat(rows[branch, stride]) for stride in STRIDES]
        for part, lowest in (("all noise levels", 0.0), (f"noise levels from {MIDDLE}", MIDDLE)):
            means = [d[d[:, 0] >= lowest, 1:].mean(dim=0).tolist() for d in data]
            table = Table(f"{branch}, {part}", *(f"stride {stride}" for stride in STRIDES))
            for name, missed in zip(ORDERS, zip(*means, strict=True), strict=True):
                table.row(name, *(f"{error:.4f}" for error in missed))
            print()
    if fixed:
        print("fixed x, timestep lowered by: " + ", ".join(f"{k}: {fmean(v):.4f}" for k, v in fixed.items()))


if __name__ == "__main__":
    main()
