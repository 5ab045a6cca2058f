"""How much an error at a noise level counts in the end: python examples/sensitivity.py [--prompts 4] [--every 3].

One block of latent frames of the demo model; at one denoise step the last velocity is repeated, all others run. The
error of the finished latents over the error put in (|d sigma| times the change of the velocity) is the amplification
that `scope_patch/method/bound.py` assumes; geometric mean and root mean square over prompts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent))

FRAMES = 17  # of video: one block of five latent frames


class SkipOne:
    """Policy: repeat the velocity at one iteration."""

    name, active, at = "skip-one", True, 0

    def __init__(self, settings):
        pass

    def initial(self):
        return 0

    def step(self, iteration, observation):
        from scope_patch.method.decision import Decision, Mode

        return iteration + 1, Decision(Mode.CACHE if iteration == SkipOne.at else Mode.RECOMPUTE, "plan")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--every", type=int, default=3, help="every so many denoise steps")
    args = parser.parse_args(argv)

    import scope_patch
    from demo_model import pipeline
    from placement import CALIBRATION
    from scope_patch.method import policies
    from scope_patch.method.bound import AMPLIFICATION, SHARE_FLOOR
    from smoothness import Recorder

    prompts = (*CALIBRATION, "a yellow disc moving up", "a green square moving right", "a white triangle")
    policies.BUILT_IN["skip-one"] = SkipOne
    pipe = pipeline.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    found: dict[int, list[float]] = {}
    for seed, prompt in enumerate(prompts[: args.prompts]):
        with Recorder(pipe, pipeline.DEFAULTS["guidance_scale"]) as run:
            clean = pipeline.sample(pipe, prompt, num_frames=FRAMES, seed=seed)
        steps = list(run.iterations())
        sigmas = [float(inputs["timestep"][0, 0]) / 1000 for inputs, _, _ in steps] + [0.0]
        for i in range(2, len(steps), args.every):
            SkipOne.at = i
            with scope_patch.patched(pipe, policy="skip-one", strict=True):
                made = pipeline.sample(pipe, prompt, num_frames=FRAMES, seed=seed)
            put = (sigmas[i] - sigmas[i + 1]) * (steps[i][2]["guided"] - steps[i - 1][2]["guided"]).norm().item()
            found.setdefault(i, []).append((made - clean).norm().item() / put)
    print("| step | sigma | geometric mean | root mean square | 1 / (1 - sigma) | assumed |\n|---|---|---|---|---|---|")
    for i, values in found.items():
        product = 1.0
        for value in values:
            product *= value
        share = 1 - sigmas[i]
        print(
            f"| {i} | {sigmas[i]:.3f} | {product ** (1 / len(values)):.2f} | {fmean(v * v for v in values) ** 0.5:.2f} "
            f"| {1 / share:.2f} | {(share + SHARE_FLOOR) ** -AMPLIFICATION:.2f} |"
        )


if __name__ == "__main__":
    main()
