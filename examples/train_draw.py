"""Train the small Infinity: python examples/train_draw.py (about half an hour on one core with AMX).

Autoencoder, then transformer, from nothing; writes infinity_demo/weights (or --weights DIR). Wants a clone of Infinity.
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

from infinity_demo import upstream

HERE = Path(__file__).resolve().parent


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", type=Path, default=HERE / "infinity_demo" / "weights")
    p.add_argument("--autoencoder-minutes", type=float, default=4, help="of CPU time")
    p.add_argument("--minutes", type=float, default=22, help="of the transformer")
    p.add_argument(
        "--at-the-latest", type=float, default=math.inf, help="the same in minutes of any time, on a busy machine"
    )
    p.add_argument("--first", type=float, default=0.0, help="go on with the weights that are there, so far (0 to 1)")
    p.add_argument("--images", type=int, default=6144)
    p.add_argument("--keep-autoencoder", action="store_true", help="train the transformer on the one that is there")
    args = p.parse_args()
    upstream.prepare()
    import torch

    from infinity_demo import model, training
    from infinity_demo.pictures import embed, pictures

    log = partial(print, flush=True)
    images, text = [], []
    for first in range(0, args.images, 256):
        drawn, prompts = pictures(range(first, min(first + 256, args.images)))
        images.append(((drawn + 1) * 127.5).round().to(torch.uint8))
        text.append(embed(prompts).half())
    log(f"{args.images} images")
    if args.keep_autoencoder:
        vae = model.load_autoencoder(args.weights)
    else:
        vae = training.train_autoencoder(args.autoencoder_minutes, torch.cat(images), args.weights, log)
    clock = training.Clock(args.minutes, args.at_the_latest, args.first)
    training.train_transformer(clock, vae, torch.cat(images), torch.cat(text), args.weights, log)


if __name__ == "__main__":
    main()
