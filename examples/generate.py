"""Generate videos with the demo model: python examples/generate.py --prompt "a red disc and a blue square" --out DIR.

Loads demo_model/weights/dit and demo_model/weights/vae (or --weights DIR) into diffusers' unmodified
SkyReelsV2DiffusionForcingPipeline. Writes NN-prompt.mp4 and NN-prompt.png (a contact sheet) for each prompt.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--prompt", action="append", help="repeat for several videos")
    p.add_argument("--negative-prompt", default="")
    p.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures (default: out)")
    p.add_argument("--num-frames", type=int, default=97, help="97 and less: one segment; more: segments of 97")
    p.add_argument("--steps", type=int, default=50, help="denoise steps of a block")
    p.add_argument("--seed", type=int, default=0, help="prompt number n gets seed + n")
    p.add_argument("--guidance", type=float, default=3.0, help="1 and less: one forward an iteration instead of two")
    p.add_argument("--ar-step", type=int, default=5, help="steps by which a block lags behind the one before; 0: none")
    p.add_argument("--block", type=int, default=5, help="latent frames in a block")
    p.add_argument("--shift", type=float, default=3.0, help="shift of the noise levels")
    p.add_argument("--overlap-history", type=int, default=17, help="frames that segments of a long video share")
    p.add_argument("--addnoise-condition", type=float, default=0, help="noise on the shared frames, in timesteps")
    p.add_argument("--fps", type=int, default=24)
    p.add_argument("--format", choices=("mp4", "gif"), default="mp4")
    p.add_argument("--scale", type=int, default=4, help="enlargement of the 64 x 64 frames in the video")
    p.add_argument("--save-latents", type=Path, help="also write the latents, [prompts, 16, F, 8, 8], to a .pt file")
    p.add_argument("--threads", type=int, default=1, help="threads of torch; more can be slower on a busy machine")
    p.add_argument("--weights", type=Path, help="folder with dit/ and vae/")
    p.add_argument("--no-progress", action="store_true", help="no progress bar")
    args = p.parse_args(argv)
    args.prompt = args.prompt or ["a red disc and a blue square"]
    if args.ar_step and args.steps < args.ar_step:
        p.error("--steps must not be smaller than --ar-step")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    import torch  # after the arguments, so that --help does not wait for it

    from demo_model import pipeline, text
    from demo_model.pictures import contact_sheet, write_video

    torch.set_num_threads(args.threads)
    num_frames = pipeline.fitting_num_frames(args.num_frames, args.block)
    if num_frames != args.num_frames:
        print(f"{args.num_frames} frames are not whole blocks, making {num_frames}", file=sys.stderr)
    pipe = pipeline.build_pipeline(args.weights or pipeline.WEIGHTS, shift=args.shift)
    pipe.set_progress_bar_config(disable=args.no_progress)
    long_video = dict(overlap_history=args.overlap_history) if num_frames > pipeline.BASE_NUM_FRAMES else {}
    args.out.mkdir(parents=True, exist_ok=True)
    all_latents = []
    for number, prompt in enumerate(args.prompt):
        if unknown := text.split_prompt(prompt)[1]:
            known = ", ".join(text.WORDS)
            print(f"words the demo does not know: {', '.join(unknown)}; it knows {known}", file=sys.stderr)
        begin = time.perf_counter()
        latents = pipeline.sample(
            pipe,
            prompt,
            args.negative_prompt,
            num_frames,
            args.seed + number,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance,
            ar_step=args.ar_step,
            causal_block_size=args.block,
            addnoise_condition=args.addnoise_condition,
            fps=args.fps,
            **long_video,
        )
        seconds = time.perf_counter() - begin
        all_latents.append(latents)
        video = pipeline.decode(pipe, latents)[0]
        name = f"{number:02d}-" + re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60]
        write_video(video, args.out / f"{name}.{args.format}", args.fps, args.scale)
        contact_sheet([(prompt, video)]).save(args.out / f"{name}.png")
        print(f"{args.out / name}.{args.format}: {len(video)} frames in {seconds:.1f} s")
    if args.save_latents:
        args.save_latents.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.cat(all_latents), args.save_latents)


if __name__ == "__main__":
    main()
