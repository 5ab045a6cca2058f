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


def predict(levels: list[float], velocities: list, order: int, level: float):
    """Newton's polynomial of an order through the newest order + 1 points, at a noise level."""
    value, factor = velocities[0], 1.0
    table = list(velocities)
    for n in range(1, order + 1):
        table = [(table[i] - table[i + 1]) / (levels[i] - levels[i + n]) for i in range(len(table) - 1)]
        factor *= level - levels[n - 1]
        value = value + factor * table[0]
    return value


def trajectory_errors(run: Recorder) -> dict:
    """{branch: {stride: [[relative errors of hold, first, second order], ...]}} over iterations and slots."""
    history: dict[int, list] = {}
    errors = {b: {s: [] for s in STRIDES} for b in ("cond", "uncond", "guided")}
    for inputs, mask, velocity in run.iterations():
        for slot in mask.nonzero().flatten().tolist():
            level = inputs["timestep"][0, slot].item() / 1000
            points = history.setdefault(slot, [])
            for branch in errors:
                now = velocity[branch][0, :, slot]
                for stride in STRIDES:
                    if len(points) < 3 * stride:
                        continue
                    past = [points[-n * stride] for n in (1, 2, 3)]
                    levels, values = [p[0] for p in past], [p[1][branch] for p in past]
                    row = [predict(levels[: k + 1], values[: k + 1], k, level) - now for k in range(3)]
                    errors[branch][stride].append([(e.norm() / now.norm()).item() for e in row])
            points.append((level, {b: velocity[b][0, :, slot] for b in errors}))
    return errors


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
    p.add_argument("--threads", type=int)
    p.add_argument("--json", type=Path, help="also write the numbers here")
    args = p.parse_args()
    import numpy as np
    import torch

    from demo_model import pipeline

    if args.threads:
        torch.set_num_threads(args.threads)
    pipe = pipeline.build_pipeline(args.weights or pipeline.WEIGHTS, shift=args.shift)
    pipe.set_progress_bar_config(disable=True)
    guidance = pipeline.DEFAULTS["guidance_scale"]
    table = {b: {s: [] for s in STRIDES} for b in ("cond", "uncond", "guided")}
    fixed: dict[int, list[float]] = {}
    for seed, prompt in enumerate(PROMPTS[: args.prompts]):
        with Recorder(pipe, guidance) as run:
            pipeline.sample(pipe, prompt, seed=seed)
        for branch, rows in trajectory_errors(run).items():
            for stride in STRIDES:
                table[branch][stride] += rows[stride]
        for lower, values in fixed_input_changes(pipe, run).items():
            fixed.setdefault(lower, []).extend(values)
    result = {"trajectory": {}, "fixed_x": {str(k): float(np.mean(v)) for k, v in fixed.items()}}
    for branch, rows in table.items():
        print(f"\n| {branch} velocity | stride 1 | stride 2 | stride 3 | stride 5 |\n|---|---|---|---|---|")
        means = {s: np.mean(rows[s], axis=0) for s in STRIDES}
        for k, name in enumerate(("hold", "taylor1", "taylor2")):
            print(f"| {name} | " + " | ".join(f"{means[s][k]:.4f}" for s in STRIDES) + " |")
            result["trajectory"].setdefault(branch, {})[name] = [float(means[s][k]) for s in STRIDES]
    print("\nfixed x, timestep lowered by: " + ", ".join(f"{k}: {v:.4f}" for k, v in result["fixed_x"].items()))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
