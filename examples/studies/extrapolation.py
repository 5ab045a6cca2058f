"""How far velocities can be followed: python examples/studies/extrapolation.py [--prompts 3].

Along trajectories of the unpatched demo model, of 6 to 100 steps, guided velocities are predicted from two and three
others at many distances and gaps. By the distance from the second point to where the velocity is wanted (in
`log_share`, in which velocities change at about one rate): relative errors of holding, of the slope, of slope and
curvature, and of `auto`; and the shares of slope and curvature that would have been best. Errors are root mean squares
over latent frames, prompts and schedules.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise, product

from recorder import record
from trial import Table, parser

SCHEDULES = {(steps, 3, 3) for steps in (6, 8, 12, 20, 50, 100)} | {(12, 1, 0), (20, 12, 0), (30, 5, 0), (50, 8, 0)}
"""(steps, shift, ar_step)."""
GAPS, AHEAD = (1, 2, 4), (1, 2, 3, 5, 8, 13)
BINS = (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 2.4)


def main() -> None:
    args = parser(__doc__, 3).parse_args()

    import torch

    from benchmark.prompts import TUNING
    from demo_model import pipeline
    from scope_patch.method.history import BranchHistory
    from scope_patch.method.predictors import Auto, log_share

    torch.set_num_threads(args.threads)
    found: dict[int, list[torch.Tensor]] = defaultdict(list)
    for (steps, shift, ar_step), (seed, prompt) in product(sorted(SCHEDULES), enumerate(TUNING[: args.prompts])):
        pipe = pipeline.build_pipeline(shift=float(shift))
        pipe.set_progress_bar_config(disable=True)
        run, _ = record(pipe, prompt, seed=seed, num_frames=37, num_inference_steps=steps, ar_step=ar_step)
        iterations = list(run.iterations())
        frames = range(iterations[0].mask.numel())
        # The n-th update of every latent frame, whenever that was.
        updates = [[it for it in iterations if it.mask[frame]] for frame in frames]
        levels = [torch.stack([updates[frame][n].levels[frame] for frame in frames]) for n in range(steps)]
        values = [
            torch.cat([updates[frame][n].velocity["guided"][:, :, frame : frame + 1] for frame in frames], dim=2)
            for n in range(steps)
        ]
        for now, ahead, gap, count in product(range(steps), AHEAD, GAPS, (2, 3)):
            behind = [now - ahead - k * gap for k in range(count)]
            if behind[-1] < 0:
                continue
            history = BranchHistory(3)
            for n in reversed(behind):
                history.record((0, len(frames)), levels[n], values[n])
            points = history.points((0, len(frames)))
            weights = Auto().weights(levels[now], points)
            h, (h1, h2) = levels[now] - points.levels[0], points.gaps
            v0, v1, v2 = (values[n].double() for n in (*behind, behind[-1])[:3])
            wide = lambda row: row.view(1, 1, -1, 1, 1)  # noqa: E731
            slope = (v0 - v1) * wide(h / h1)
            bend = torch.zeros_like(slope)
            if count == 3:
                bend = ((v0 - v1) / wide(h1) - (v1 - v2) / wide(h2)) * wide(h * (h + h1) / (h1 + h2))
            parts = (
                torch.stack([values[now] - v0, slope, bend]).flatten(1, 2).flatten(3)
            )  # [3, channels, frames, pixels]
            size = values[now].double().square().sum((0, 1, 3, 4))
            missed = (history.combine((0, len(frames)), weights) - values[now]).square().sum((0, 1, 3, 4)) / size
            products = torch.einsum("acfp,bcfp->fab", parts, parts).flatten(1) / size[:, None]
            distance = (log_share(levels[now]) - log_share(points.levels[1])).abs()
            found[count].append(torch.cat([torch.stack([distance, missed], dim=1), products], dim=1))
    for count, rows in found.items():
        print(f"\n{count} points\n")
        bent = ("+ curvature", "of curvature") if count == 3 else ()
        table = Table("distance", "samples", "hold", "slope", *bent[:1], "auto", "best share of slope", *bent[1:])
        data = torch.cat(rows)
        for low, high in pairwise(BINS):
            part = data[(data[:, 0] >= low) & (data[:, 0] < high)]
            if len(part) < 30:
                continue
            mean = part.mean(dim=0)
            gram = mean[2:].reshape(3, 3)
            best = torch.linalg.solve(gram[1:count, 1:count], gram[0, 1:count])
            taken = [torch.tensor([1.0, -float(n > 0), -float(n > 1)], dtype=torch.float64) for n in range(count)]
            errors = [(shares @ gram @ shares).clamp(min=0).sqrt().item() for shares in taken]
            shown = [*errors, mean[1].sqrt().item()]
            table.row(f"{low:g} to {high:g}", len(part), *(f"{e:.3f}" for e in shown), *(f"{b:.2f}" for b in best))


if __name__ == "__main__":
    main()
