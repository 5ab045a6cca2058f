"""Draw pictures with the small Infinity: python examples/draw.py --prompt "a red disc and a blue square" --out DIR.

Upstream's unmodified `autoregressive_infer_cfg`, imported from a clone (see docs/infinity.md), with the weights in
infinity_demo/weights. It knows nothing of scope_patch: `python -m scope_patch run -- python examples/draw.py ...`. (A
script called infinity.py would hide upstream's package of that name.)
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

from infinity_demo import upstream


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--prompt", action="append", help="repeat for several pictures")
    p.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures (default: out)")
    p.add_argument("--seed", type=int, default=0, help="prompt number n gets seed + n")
    p.add_argument("--cfg", default="3", help="guidance, one number or one a scale, such as 3,3,3,3,3,1,1")
    p.add_argument("--tau", type=float, default=0.7, help="temperature of the draws")
    p.add_argument("--scale", type=int, default=4, help="enlargement of the 64 x 64 pixels")
    p.add_argument("--weights", type=Path)
    args = p.parse_args(argv)
    args.prompt = args.prompt or ["a red disc and a blue square"]
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    upstream.prepare()
    from PIL import Image

    from infinity_demo import model

    transformer, vae = model.load(args.weights or model.WEIGHTS)
    cfg = [float(each) for each in args.cfg.split(",")]
    args.out.mkdir(parents=True, exist_ok=True)
    for number, prompt in enumerate(args.prompt):
        begin = time.perf_counter()
        guidance = cfg if len(cfg) > 1 else cfg[0]
        (picture,) = model.generate(transformer, vae, [prompt], args.seed + number, guidance, args.tau)
        seconds = time.perf_counter() - begin
        name = f"{number:02d}-" + re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60]
        size = (picture.shape[1] * args.scale, picture.shape[0] * args.scale)
        Image.fromarray(picture.numpy()).resize(size, Image.Resampling.NEAREST).save(args.out / f"{name}.png")
        print(f"{args.out / name}.png: {seconds:.2f} s")


if __name__ == "__main__":
    main()
