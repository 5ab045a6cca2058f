"""Skipping the whole forward against skipping its blocks, at equal decisions: python examples/levels.py [--prompts 2].

Both columns of a line have the same forwards (SCOPE by its placement, TaylorSeer by its interval, TeaCache by its
threshold); only the place differs: the velocity is made from earlier ones, or the residual of the blocks is. On the
demo model, against the unpatched latents and frames.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent))

SETTINGS = {
    **{f"scope, {x} times less, {how}": {"target_speedup": x, "predictor": how}
       for x in (2, 3, 4, 5.27) for how in ("auto", "hold")},
    **{f"taylorseer, N = {n}, O = {order}": {"policy": f"taylorseer:interval={n},max_order={order}"}
       for n in (2, 3, 4, 5) for order in (0, 1, 2)},
    **{f"teacache, {x} times less": {"policy": "teacache:ckpt_dir=none", "target_speedup": x} for x in (2, 3, 4)},
}  # fmt: skip
ONLY_RESIDUAL = {f"delta-dit, N = {n}": {"policy": f"delta-dit:interval={n}"} for n in (2, 3)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2)
    args = parser.parse_args(argv)

    import scope_patch
    from demo_model import pipeline
    from evaluate import PROMPTS
    from scope_patch.compare.metrics import psnr

    pipe = pipeline.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    seeds = list(enumerate(PROMPTS[: args.prompts]))
    plain = [pipeline.sample(pipe, prompt, seed=seed) for seed, prompt in seeds]
    frames = [pipeline.decode(pipe, latents)[0] for latents in plain]

    def measure(settings):
        """(times less work, PSNR, error of the latents), means over the prompts."""
        found = []
        for (seed, prompt), latents, reference in zip(seeds, plain, frames, strict=True):
            with scope_patch.patched(pipe, **settings, strict=True) as run:
                made = pipeline.sample(pipe, prompt, seed=seed)
            (plan,) = run.report["generations"][0]["planned"]
            error = ((made - latents).norm() / latents.norm()).item()
            found.append((plan["speedup"], psnr(reference, pipeline.decode(pipe, made)[0]), error))
        return [fmean(column) for column in zip(*found, strict=True)]

    print("| decisions | times less | PSNR, velocity | PSNR, residual | error, velocity | error, residual |")
    print("|---|---|---|---|---|---|")
    for name, settings in SETTINGS.items():
        (less, first, error), (_, second, other) = (
            measure({**settings, "level": level}) for level in ("velocity", "residual")
        )
        print(f"| {name} | {less:.2f} | {first:.2f} | {second:.2f} | {error:.3f} | {other:.3f} |", flush=True)
    for name, settings in ONLY_RESIDUAL.items():
        less, decibels, error = measure(settings)
        print(f"| {name} | {less:.2f} | | {decibels:.2f} | | {error:.3f} |", flush=True)


if __name__ == "__main__":
    main()
