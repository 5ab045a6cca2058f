"""What placing recomputes wins over thresholds: python examples/placement.py [--prompts 8] [--targets 2 3 4 5 6].

On the demo model, three ways to spend the same DiT work: thresholds on the time embedding, recomputes placed where
skipping would err most (the default), and the same with a profile of the model, measured on prompts that are not in the
table. PSNR and SSIM to the unpatched video.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median

sys.path.insert(0, str(Path(__file__).resolve().parent))

CALIBRATION = ("a blue triangle moving left", "a big white square and a small red ring")
HORIZON = 5  # beyond this speed-up the default of five skips in a row is the bound
FURTHER = 8


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--targets", type=float, nargs="+", default=[2, 3, 4, 5, 6])
    args = parser.parse_args(argv)

    import torch

    import scope_patch
    from demo_model import pipeline
    from evaluate import PROMPTS
    from scope_patch.compare.metrics import psnr, ssim

    torch.set_num_threads(1)  # on a busy machine two are many times slower
    pipe = pipeline.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as folder:
        profile = f"{folder}/profile.json"
        with scope_patch.patched(pipe, policy="never", calibrate=profile, strict=True):
            for seed, prompt in enumerate(CALIBRATION):
                pipeline.sample(pipe, prompt, seed=1000 + seed)
        ways = {
            "thresholds": {"placement": "threshold"},
            "placed": {},
            "placed, calibrated": {"profile": profile},
        }
        cases = list(enumerate(PROMPTS[: args.prompts]))
        references = [pipeline.decode(pipe, pipeline.sample(pipe, prompt, seed=seed))[0] for seed, prompt in cases]
        print("| asked | recomputes | work, times less | forwards | PSNR | median | worst | SSIM |")
        print("|---|---|---|---|---|---|---|---|")
        for target in args.targets:
            for name, way in ways.items():
                found = []
                horizon = {"max_skip": FURTHER} if target > HORIZON else {}
                for (seed, prompt), reference in zip(cases, references, strict=True):
                    with scope_patch.patched(pipe, target_speedup=target, strict=True, **way, **horizon) as run:
                        video = pipeline.decode(pipe, pipeline.sample(pipe, prompt, seed=seed))[0]
                    found.append((psnr(reference, video), ssim(reference, video)))
                generation = run.report["generations"][0]
                decibels, similar = zip(*found, strict=True)
                print(
                    f"| {target:g} | {name} | {generation['planned'][0]['speedup']:.2f} "
                    f"| {generation['forwards']['run']} | {fmean(decibels):.2f} | {median(decibels):.2f} "
                    f"| {min(decibels):.2f} | {fmean(similar):.4f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
