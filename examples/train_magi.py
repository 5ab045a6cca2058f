"""Train the small MAGI-1: python examples/train_magi.py --cache DIR (about 0.6 s a step on one core with AMX).

Wants DIR/latents.pt and DIR/held_out.pt: {"latents": [N, 16, 30, 8, 8], "text": [N, 16, 64]}. Writes
magi_demo/weights (or --weights DIR), and the state for --resume to --cache. --check compares the model with upstream's.
--distil: a copy that needs no guidance, magi_demo/distilled, learnt from the weights of magi_demo/weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEACHER = HERE / "magi_demo" / "weights"


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", type=Path, help="folder (default: magi_demo/weights, or magi_demo/distilled)")
    p.add_argument("--distil", action="store_true", help="learn what guidance makes of the model: one forward a step")
    p.add_argument("--teacher", type=Path, default=TEACHER, help="of --distil (default: magi_demo/weights)")
    p.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "physics_cache")
    p.add_argument("--stages", nargs="+", choices=("dit", "pictures"), default=["dit", "pictures"])
    p.add_argument("--steps", type=int, default=5000)
    p.add_argument("--minutes", type=float, help="end the training by then, its schedule compressed to fit")
    p.add_argument("--muon-lr", type=float, default=8e-3)
    p.add_argument("--adamw-lr", type=float, default=2e-3)
    p.add_argument("--layers", type=int, help="fewer or more than those of the model that is kept: for trying out")
    p.add_argument("--resume", action="store_true", help="go on from the state in --cache, else from --weights")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--no-compile", action="store_true", help="do without torch.compile (slower by half)")
    p.add_argument("--float32", action="store_true", help="for a processor that has no units for bfloat16")
    p.add_argument("--random-data", action="store_true", help="noise in place of clips: says how long a step takes")
    p.add_argument("--check", action="store_true", help="only compare the forward with upstream's; needs a clone")
    args = p.parse_args()
    args.weights = args.weights or (HERE / "magi_demo" / "distilled" if args.distil else TEACHER)
    return args


def check() -> None:
    from magi_demo.check import WANTED, compare

    largest = compare()
    print(f"largest relative difference {largest:.1e}, wanted below {WANTED}")
    sys.exit(largest >= WANTED)


def in_order(data: dict, first_seed: int) -> dict:
    """Of clips numbered from `first_seed` on, those whose first named body begins on the left.

    With as many that begin on the right, a model this small films a body on both sides at once.
    """
    from physics.scenes import random_scene

    kept = [n for n in range(len(data["text"])) if random_scene(first_seed + n).in_order]
    return {name: part[kept] for name, part in data.items()}


def main() -> None:
    args = parse_args()
    if args.check:
        check()
    import torch

    from demo_model.clips import HELD_OUT
    from magi_cpu.host import UPSTREAM
    from magi_demo.distil import Distiller
    from magi_demo.model import Sizes, load_model
    from magi_demo.sampling import draw_contact_sheet
    from magi_demo.train_dit import FILE, Trainer
    from training import draw_loss_curve, train

    torch.set_num_threads(args.threads)
    if "dit" in args.stages:
        if args.random_data:
            data = {"latents": torch.randn(64, 16, 30, 8, 8).half(), "text": torch.randn(64, 16, 64).half()}
            data = [data, data]
        else:
            clips = (("latents.pt", 0), ("held_out.pt", HELD_OUT))
            data = [in_order(torch.load(args.cache / name, weights_only=True), first) for name, first in clips]
        sizes = Sizes(**({"num_layers": args.layers} if args.layers else {}))
        dtype = torch.float32 if args.float32 else torch.bfloat16
        if args.distil:
            trainer = Distiller(*data, load_model(args.teacher / FILE), dtype=dtype, compiled=not args.no_compile)
        else:
            trainer = Trainer(*data, sizes, dtype, compiled=not args.no_compile)
        state = args.cache / ("magi_distilled_state.pt" if args.distil else "magi_state.pt")
        if args.resume:
            trainer.resume(state, args.weights)
        log = partial(print, flush=True)
        train(trainer, args.weights, state, args.steps, args.minutes, args.muon_lr, args.adamw_lr, log)
    if "pictures" in args.stages:
        curve = json.loads((args.weights / "training.json").read_text())["curve"]
        draw_loss_curve(curve, args.weights / "loss_curve.png")
        if (UPSTREAM / "MAGI-1").is_dir():
            sheet = args.weights / "contact_sheet.png"
            draw_contact_sheet(args.weights, HERE / "physics" / "weights", sheet, cfg=1 if args.distil else 3)
        else:
            print(f"no contact sheet: no clone of github.com/SandAI-org/MAGI-1 in {UPSTREAM}", file=sys.stderr)


if __name__ == "__main__":
    main()
