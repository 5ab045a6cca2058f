"""How smooth the demo model is: python examples/smoothness.py [--weights DIR] [--json FILE].

1. Along real sampling trajectories: the velocity of a slot at an iteration is predicted from those 1, 2 and 3 strides
   earlier, by holding, by first order and by second order (Newton form) in the noise level. The number is
   ||prediction - velocity|| / ||velocity||, over all slots that are being denoised and have that much history.
2. At a fixed x: the relative change of the velocity when only the timestep of the moving slots is lowered (by 1, 2, 5,
   20).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

STRIDES = (1, 2, 3, 5)
BRANCHES = ("cond", "uncond", "guided")
MIDDLE = 0.3  # below it the sampler takes its widest steps, six of fifty at shift 3
PROMPTS = (
    "a red disc and a blue square",
    "a big green ring moving right",
    "a small yellow triangle moving up and a white disc moving left",
    "a magenta square",
)


class Recorder:
    """Wraps the pipeline's transformer call and schedule; keeps each iteration's input, levels, mask and velocities."""

    def __init__(self, pipe, guidance: float):
        self.pipe, self.guidance, self.steps, self.calls = pipe, guidance, [], []
        self.schedule, self.forward = pipe.generate_timestep_matrix, pipe.transformer.forward

    def __enter__(self):
        def schedule(*args, **kwargs):
            out = self.schedule(*args, **kwargs)
            self.mask = out[2]
            return out

        def forward(*args, **kwargs):
            out = self.forward(*args, **kwargs)
            self.calls.append((kwargs, out[0]))
            return out

        self.pipe.generate_timestep_matrix, self.pipe.transformer.forward = schedule, forward
        return self

    def __exit__(self, *_):
        del self.pipe.generate_timestep_matrix, self.pipe.transformer.forward

    def iterations(self):
        """Per iteration: conditional input, mask [F], {branch: velocity [1, C, F, h, w]}."""
        for i, (cond, uncond) in enumerate(zip(self.calls[::2], self.calls[1::2], strict=True)):
            v = {"cond": cond[1], "uncond": uncond[1]}
            v["guided"] = v["uncond"] + self.guidance * (v["cond"] - v["uncond"])
            yield cond[0], self.mask[i], v


def predict(levels, velocities, order: int, level):
    """Newton's polynomial of an order through the newest order + 1 points, at a noise level; leading axis: slots."""
    value, factor = velocities[0], 1.0
    table = list(velocities)
    for n in range(1, order + 1):
        table = [(table[i] - table[i + 1]) / (levels[i] - levels[i + n]) for i in range(len(table) - 1)]
        factor = factor * (level - levels[n - 1])
        value = value + factor * table[0]
    return value


def trajectory_errors(run: Recorder) -> dict:
    """{branch: {stride: rows of noise level and relative error of hold, first and second order}}, a row a velocity."""
    import torch

    steps = list(run.iterations())
    levels = torch.stack([inputs["timestep"][0] for inputs, _, _ in steps]).double() / 1000  # [iterations, F]
    masks = torch.stack([mask for _, mask, _ in steps])
    result = {}
    for branch in BRANCHES:
        v = torch.stack([velocity[branch][0].transpose(0, 1).flatten(1) for _, _, velocity in steps]).double()
        result[branch] = {}
        for stride in STRIDES:
            rows = []
            for i in range(3 * stride, len(steps)):
                slots = masks[i - 3 * stride : i + 1].all(dim=0)
                past = [i - n * stride for n in (1, 2, 3)]
                at, values = [levels[n, slots, None] for n in past], [v[n, slots] for n in past]
                now, level = v[i, slots], levels[i, slots, None]
                errors = [(predict(at[: k + 1], values[: k + 1], k, level) - now).norm(dim=1) for k in range(3)]
                rows.append(torch.stack([level[:, 0]] + [error / now.norm(dim=1) for error in errors], dim=1))
            result[branch][stride] = torch.cat(rows)
    return result


def fixed_input_changes(pipe, run: Recorder, every: int = 6) -> dict[int, list[float]]:
    """{timesteps lowered by: relative changes of the velocity at the same x}, over moving slots."""
    import torch

    changes = {d: [] for d in (1, 2, 5, 20)}
    for i, (inputs, mask, velocity) in enumerate(run.iterations()):
        if i % every:
            continue
        moving = mask & (inputs["timestep"][0] > 20)
        if not moving.any():
            continue
        for lower in changes:
            t = inputs["timestep"].clone()
            t[0, moving] -= lower
            with torch.no_grad():
                v = run.forward(**{**inputs, "timestep": t})[0]
            diff = (v - velocity["cond"])[:, :, moving].norm() / velocity["cond"][:, :, moving].norm()
            changes[lower].append(diff.item())
    return changes


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", type=Path)
    p.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of the prompts to use")
    p.add_argument("--shift", type=float, default=3.0)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--json", type=Path, help="also write the numbers here")
    args = p.parse_args()
    import torch

    from demo_model import pipeline

    torch.set_num_threads(args.threads)
    pipe = pipeline.build_pipeline(args.weights or pipeline.WEIGHTS, shift=args.shift)
    pipe.set_progress_bar_config(disable=True)
    guidance = pipeline.DEFAULTS["guidance_scale"]
    rows = {branch: {stride: [] for stride in STRIDES} for branch in BRANCHES}
    fixed: dict[int, list[float]] = {}
    for seed, prompt in enumerate(PROMPTS[: args.prompts]):
        with Recorder(pipe, guidance) as run:
            pipeline.sample(pipe, prompt, seed=seed)
        for branch, strides in trajectory_errors(run).items():
            for stride in STRIDES:
                rows[branch][stride].append(strides[stride])
        for lower, values in fixed_input_changes(pipe, run).items():
            fixed.setdefault(lower, []).extend(values)
    result = {"trajectory": {}, "fixed_x": {k: sum(v) / len(v) for k, v in fixed.items()}}
    for branch in BRANCHES:
        data = {stride: torch.cat(parts) for stride, parts in rows[branch].items()}
        for part, lowest in (("all noise levels", 0.0), (f"noise levels from {MIDDLE}", MIDDLE)):
            means = {s: d[d[:, 0] >= lowest, 1:].mean(dim=0).tolist() for s, d in data.items()}
            print(f"\n| {branch}, {part} | " + " | ".join(f"stride {s}" for s in STRIDES) + " |\n|---|---|---|---|---|")
            for k, name in enumerate(("hold", "taylor1", "taylor2")):
                print(f"| {name} | " + " | ".join(f"{means[s][k]:.4f}" for s in STRIDES) + " |")
            result["trajectory"][f"{branch}, {part}"] = means
    print("\nfixed x, timestep lowered by: " + ", ".join(f"{k}: {v:.4f}" for k, v in result["fixed_x"].items()))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
