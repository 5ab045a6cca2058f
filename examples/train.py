"""Train a model from nothing: python examples/train.py [--model demo|physics] (about an hour on two idle cores).

`demo`: coloured shapes, block-causal attention. `physics`: simulated bodies, full attention; its autoencoder and
latents serve examples/train_magi.py as well.

Autoencoder, then latents of the training clips, then the DiT. Writes {vae,dit} into the model's folder of weights (or
--weights DIR); latents and the state for --resume go to --cache. Afterwards draws the loss curve and a contact sheet
beside them.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
WEIGHTS = {"demo": HERE / "demo_model" / "weights", "physics": HERE / "physics" / "weights"}


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=WEIGHTS, default="demo")
    p.add_argument("--weights", type=Path, help="folder (default: the model's own)")
    p.add_argument("--cache", type=Path, help="folder (default: MODEL_cache in the system's temporary folder)")
    p.add_argument("--stages", nargs="+", choices=("vae", "latents", "dit", "pictures"), default=None)
    p.add_argument("--vae-steps", type=int, default=2000)
    p.add_argument("--clips", type=int, default=4096)
    p.add_argument("--held-out", type=int, default=64, help="clips for the loss on what it was not trained on")
    p.add_argument("--steps", type=int, default=4000, help="of the DiT")
    p.add_argument("--minutes", type=float, help="end the DiT's training by then, its schedule compressed to fit")
    p.add_argument("--muon-lr", type=float, default=8e-3)
    p.add_argument("--adamw-lr", type=float, default=2e-3)
    p.add_argument("--shortest-wave", type=float, default=None, help="timesteps; 0 keeps the time embedding as it is")
    p.add_argument("--resume", action="store_true", help="go on from the state in --cache, else from --weights")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--no-compile", action="store_true", help="do without torch.compile (slower by a third)")
    args = p.parse_args()
    args.weights = args.weights or WEIGHTS[args.model]
    args.cache = args.cache or Path(tempfile.gettempdir()) / f"{args.model}_cache"
    return args


def main() -> None:
    args = parse_args()
    import torch

    from demo_model import latents, pipeline, train_dit, train_vae
    from demo_model.clips import HELD_OUT
    from demo_model.dit import SHORTEST_WAVE
    from training import train

    torch.set_num_threads(args.threads)
    log = partial(print, flush=True)
    stages = args.stages or ("vae", "latents", "dit", "pictures")
    clips, held_out = args.cache / "latents.pt", args.cache / "held_out.pt"
    if args.model == "physics":
        from physics.picture import drawn_scene as draw
        from physics.scenes import LATENT_FRAMES
        from physics.words import encode

        attention = train_dit.FULL
    else:
        from demo_model.clips import drawn_clip as draw
        from demo_model.latents import LATENT_FRAMES
        from demo_model.text import encode_prompts as encode

        attention = train_dit.BLOCK_CAUSAL
    if "vae" in stages:
        trained = train_vae.train_vae(args.vae_steps, draw, log, held_out=args.held_out)
        trained.half().save_pretrained(args.weights / "vae")
    if "latents" in stages:
        vae = pipeline.load_vae(args.weights)
        build = partial(latents.build_latents, vae, LATENT_FRAMES, draw, encode, log=log)
        build(held_out, args.held_out, first_seed=HELD_OUT)
        build(clips, args.clips)
    if "dit" in stages:
        wave = SHORTEST_WAVE if args.shortest_wave is None else args.shortest_wave
        data = torch.load(clips), torch.load(held_out)
        trainer = train_dit.Trainer(*data, shortest_wave=wave, compiled=not args.no_compile, attention=attention)
        state = args.cache / "state.pt"
        if args.resume:
            trainer.resume(state, args.weights / "dit")
        train(trainer, args.weights / "dit", state, args.steps, args.minutes, args.muon_lr, args.adamw_lr, log)
    if "pictures" in stages:
        from demo_model.training_pictures import draw_all

        draw_all(args.weights, physics=args.model == "physics")


if __name__ == "__main__":
    main()
