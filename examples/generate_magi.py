"""Films of the small MAGI-1 by the official loop: python examples/generate_magi.py --prompt "a red ball bounces".

Needs a clone of github.com/SandAI-org/MAGI-1 (docs/testbeds.md). It knows nothing of scope_patch, so
`python -m scope_patch run -- python examples/generate_magi.py ...` is the honest test.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--prompt", action="append", help="may be given several times (default: those of the contact sheet)")
    p.add_argument("--frames", type=int, default=96, help="in chunks of 24; three fewer are written")
    p.add_argument("--steps", type=int, default=64)
    p.add_argument("--guidance", type=int, choices=(1, 3), default=3, help="forwards a step: 1 is without guidance")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("out"))
    p.add_argument("--weights", type=Path, default=HERE / "magi_demo" / "weights")
    args = p.parse_args()

    from demo_model import pipeline
    from demo_model.pictures import contact_sheet, write_video
    from demo_model.training_pictures import SCENES
    from magi_demo.sampling import load, sample

    model, vae = load(args.weights), pipeline.load_vae(HERE / "physics" / "weights")
    rows = []
    for number, prompt in enumerate(args.prompt or SCENES):
        begin = time.perf_counter()
        latents = sample(model, prompt, args.frames, args.seed + number, steps=args.steps, cfg=args.guidance)
        rows.append((prompt, pipeline.frames(vae, latents)[0]))
        print(f"{prompt}: {time.perf_counter() - begin:.1f} s", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    for number, (prompt, film) in enumerate(rows):
        name = f"{number:02}-{re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')}"
        write_video(film, args.out / f"{name}.mp4")
        contact_sheet([(prompt, film)]).save(args.out / f"{name}.png")


if __name__ == "__main__":
    main()
