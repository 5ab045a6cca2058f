"""How far velocities can be followed: python examples/studies/extrapolation.py [--prompts 3].

Along trajectories of the unpatched demo model, of 6 to 100 steps, velocities are predicted from two and three others at many
distances and gaps. By the distance from the older of the newest two points to where the velocity is wanted (in
`log_share`, in which velocities change at about one rate): relative errors of holding, of the slope, of slope and
curvature, and of `auto`; the share of the slope and of the curvature that would have been best; and the shares that auto
takes. Errors are root mean squares over latent frames, guidance branches, prompts and schedules.
"""

from __future__ import annotations

from itertools import pairwise

from recorder import record
from trial import Table, parser

SCHEDULES = (
    (6, 3, 0),
    (8, 3, 2),
    (12, 3, 3),
    (12, 1, 0),
    (20, 3, 3),
    (20, 12, 0),
    (30, 5, 0),
    (50, 3, 5),
    (50, 8, 0),
    (100, 3, 5),
)
"""(steps, shift, ar_step)."""
SLOTS, GAPS, AHEAD = (1, 4, 7, 9), (1, 2, 4), (1, 2, 3, 5, 8, 13)
BINS = (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 2.4)


def main() -> None:
    args = parser(__doc__, 3).parse_args()

    import torch

    from benchmark.prompts import TUNING
    from demo_model import pipeline
    from scope_patch.method.history import BranchHistory
    from scope_patch.method.predictors.formulas import Auto, log_share

    torch.set_num_threads(args.threads)
    found: dict[bool, list[list[float]]] = {False: [], True: []}
    for steps, shift, ar_step in SCHEDULES:
        pipe = pipeline.build_pipeline(shift=float(shift))
        pipe.set_progress_bar_config(disable=True)
        for seed, prompt in enumerate(TUNING[: args.prompts]):
            run, _ = record(pipe, prompt, seed=seed, num_frames=37, num_inference_steps=steps, ar_step=ar_step)
            iterations = list(run.iterations())
            for branch in ("cond", "uncond"):
                for slot in SLOTS:
                    known = [
                        (it.levels[slot : slot + 1], it.velocity[branch][:, :, slot : slot + 1].double())
                        for it in iterations
                        if it.mask[slot]
                    ]
                    for now, (level, true) in enumerate(known):
                        for newest in {now - ahead for ahead in AHEAD}:
                            for gap in GAPS:
                                for three in (False, True):
                                    behind = [newest, newest - gap, *([newest - 2 * gap] if three else [])]
                                    if behind[-1] < 0:
                                        continue
                                    history = BranchHistory(3)
                                    for k in reversed(behind):
                                        history.record((0, 1), *known[k])
                                    points = history.points((0, 1))
                                    weights = Auto().weights(level, points)
                                    v0, v1 = known[behind[0]][1], known[behind[1]][1]
                                    h = level - points.newest
                                    slope = (v0 - v1) * (h / points.first_gap)
                                    bend = torch.zeros_like(slope)
                                    if three:
                                        older = (v1 - known[behind[2]][1]) / points.second_gap
                                        factor = h * (h + points.first_gap) / (points.first_gap + points.second_gap)
                                        bend = factor * (slope / h - older)
                                    missed = history.combine((0, 1), weights) - true
                                    parts = torch.stack([(true - v0).flatten(), slope.flatten(), bend.flatten()])
                                    products = (parts @ parts.T / true.square().sum()).flatten().tolist()
                                    distance = (log_share(level) - log_share(points.levels[1])).abs()
                                    share = -weights[1] * points.first_gap / h if not three else torch.nan * h
                                    own = (missed.square().sum() / true.square().sum()).item()
                                    found[three].append([distance.item(), own, share.item(), *products])
    for three, rows in found.items():
        print(f"\n{'Three' if three else 'Two'} points\n")
        table = Table(
            "distance",
            "samples",
            "hold",
            "slope",
            "+ curvature",
            "auto",
            "best share of slope",
            "of curvature",
            "auto's",
        )
        data = torch.tensor(rows, dtype=torch.float64)
        for low, high in pairwise(BINS):
            part = data[(data[:, 0] >= low) & (data[:, 0] < high)]
            if len(part) < 30:
                continue
            mean = part.mean(dim=0)
            gram = mean[3:].reshape(3, 3)
            size = 2 + three
            best = torch.linalg.solve(gram[1:size, 1:size], gram[0, 1:size])
            ones = [torch.tensor([1.0, *[-float(k < n) for k in range(2)]], dtype=torch.float64) for n in range(3)]
            errors = [(one @ gram @ one).clamp(min=0).sqrt().item() for one in ones]
            table.row(
                f"{low:g} to {high:g}", len(part), *(f"{e:.3f}" for e in errors[: size]), *([] if three else [""]),
                f"{mean[1].sqrt():.3f}", *(f"{b:.2f}" for b in best), *([] if three else [""]),
                "" if three else f"{mean[2]:.2f}",
            )  # fmt: skip


if __name__ == "__main__":
    main()
