"""Train the demo from nothing: python examples/train.py (about an hour on two idle cores; less with --minutes).

Autoencoder, then latents of the training clips, then the DiT. Writes demo_model/weights/{vae,dit} (or --weights DIR);
latents and the state for --resume go to --cache. Afterwards draws the loss curve and a contact sheet beside them.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", type=Path, default=HERE / "demo_model" / "weights")
    p.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "demo_cache")
    p.add_argument("--stages", nargs="+", choices=("vae", "latents", "dit", "pictures"), default=None)
    p.add_argument("--vae-steps", type=int, default=2000)
    p.add_argument("--clips", type=int, default=4096)
    p.add_argument("--steps", type=int, default=4000, help="of the DiT")
    p.add_argument("--minutes", type=float, help="end the DiT's training by then, its schedule compressed to fit")
    p.add_argument("--muon-lr", type=float, default=8e-3)
    p.add_argument("--adamw-lr", type=float, default=2e-3)
    p.add_argument("--shortest-wave", type=float, default=None, help="timesteps; 0 keeps the time embedding as it is")
    p.add_argument("--resume", action="store_true", help="go on from the state in --cache")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--no-compile", action="store_true", help="do without torch.compile (slower by a third)")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    import torch

    from demo_model import latents, pipeline, train_dit, train_vae
    from demo_model.dit import SHORTEST_WAVE
    from training import train

    torch.set_num_threads(args.threads)
    log = partial(print, flush=True)
    stages = args.stages or ("vae", "latents", "dit", "pictures")
    clips, held_out = args.cache / "latents.pt", args.cache / "held_out.pt"
    if "vae" in stages:
        train_vae.train_vae(args.vae_steps, log).half().save_pretrained(args.weights / "vae")
    if "latents" in stages:
        vae = pipeline.load_vae(args.weights)
        latents.build_latents(vae, held_out, 64, first_seed=50_000_000, log=log)
        latents.build_latents(vae, clips, args.clips, log=log)
    if "dit" in stages:
        wave = SHORTEST_WAVE if args.shortest_wave is None else args.shortest_wave
        data = torch.load(clips), torch.load(held_out)
        trainer = train_dit.Trainer(*data, shortest_wave=wave, compiled=not args.no_compile)
        state = args.cache / "state.pt"
        if args.resume:
            trainer.resume(state)
        train(trainer, args.weights / "dit", state, args.steps, args.minutes, args.muon_lr, args.adamw_lr, log)
    if "pictures" in stages:
        from demo_model.training_pictures import draw_all

        draw_all(args.weights)


if __name__ == "__main__":
    main()
