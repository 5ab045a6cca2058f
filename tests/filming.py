"""A user's script, as `tune` and `bench` find it (tests/test_tune.py): videos of the fake official host."""

import argparse
import os
import sys
from pathlib import Path


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", type=Path)
    p.add_argument("--prompt", default="a disc")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int, default=24)
    p.add_argument("--kind", default="latents", choices=("latents", "frames", "none", "growing"))
    p.add_argument("--fail", default="", help="never, always, patched")
    p.add_argument("--touch", type=Path, help="a file that gets a line a run")
    a = p.parse_args()
    if a.touch:
        with a.touch.open("a") as file:
            file.write("run\n")
    accelerated = os.environ.get("SCOPE_PATCH_POLICY") != "never"
    if a.fail == "always" or (a.fail == "patched" and accelerated):
        print("the disk is full", file=sys.stderr)
        raise SystemExit(3)
    if a.kind == "none":
        return
    import torch  # most of what this script costs
    from hosts import fake_pipeline

    seed = a.seed + sum(map(ord, a.prompt))
    pipe = fake_pipeline(seed=seed)
    frames = 34 if a.kind == "growing" and accelerated else 33
    made = pipe(a.prompt, num_frames=frames, num_inference_steps=a.steps, ar_step=2)
    out = a.out or Path("result")
    if a.kind != "frames":
        out.parent.mkdir(parents=True, exist_ok=True)
        torch.save(made, out)
        return
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    frames = made[0, :3].movedim(0, -1).sigmoid().mul(255).byte()
    for k, frame in enumerate(frames.repeat_interleave(10, 1).repeat_interleave(10, 2)):
        Image.fromarray(frame.numpy()).save(out / f"{k}.png")


if __name__ == "__main__":
    main()
