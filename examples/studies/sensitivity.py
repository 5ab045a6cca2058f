"""How much an error at a noise level counts in the end: python examples/studies/sensitivity.py [--prompts 4].

One block of latent frames of the demo model; at one denoise step the last velocity is repeated, all others run. The
error of the finished latents over the error put in (|d sigma| times the change of the velocity) is the amplification
that `scope_patch/method/placement.py` assumes; geometric mean and root mean square over prompts.
"""

from __future__ import annotations

from statistics import fmean, geometric_mean

from recorder import record
from trial import Table, parser

FRAMES = 17  # of video: one block of five latent frames
MORE_PROMPTS = ("a yellow disc moving up", "a green square moving right", "a white triangle")


class RepeatAt:
    """Stands in front of the DiT's forward: both branches of one iteration get the velocity of the one before."""

    def __init__(self, model, iteration: int) -> None:
        self.model, self.forward, self.at = model, model.forward, iteration
        self.calls, self.last = 0, [None, None]

    def __enter__(self) -> None:
        self.model.forward = self

    def __exit__(self, *_: object) -> None:
        del self.model.forward

    def __call__(self, *args, **kwargs):
        iteration, branch = divmod(self.calls, 2)
        self.calls += 1
        if iteration != self.at:
            self.last[branch] = self.forward(*args, **kwargs)
        return self.last[branch]


def main() -> None:
    options = parser(__doc__, 4)
    options.add_argument("--every", type=int, default=3, help="every so many denoise steps")
    args = options.parse_args()

    import torch

    from benchmark import hosts
    from benchmark.prompts import TUNING_CALIBRATION
    from demo_model import pipeline
    from scope_patch.method.placement import AMPLIFICATION, SHARE_FLOOR

    torch.set_num_threads(args.threads)
    pipe = hosts.build("demo")
    found: dict[int, list[float]] = {}
    for seed, prompt in enumerate((*TUNING_CALIBRATION, *MORE_PROMPTS)[: args.prompts]):
        run, clean = record(pipe, prompt, num_frames=FRAMES, seed=seed)
        steps = list(run.iterations())
        sigmas = [float(step.levels[0]) for step in steps] + [0.0]
        for i in range(2, len(steps), args.every):
            with RepeatAt(pipe.transformer, i):
                made = pipeline.sample(pipe, prompt, num_frames=FRAMES, seed=seed)
            put = (sigmas[i] - sigmas[i + 1]) * (steps[i].velocity["guided"] - steps[i - 1].velocity["guided"]).norm()
            found.setdefault(i, []).append(((made - clean).norm() / put).item())
    table = Table("step", "sigma", "geometric mean", "root mean square", "1 / (1 - sigma)", "assumed")
    for i, values in found.items():
        share = 1 - sigmas[i]
        numbers = (
            geometric_mean(values),
            fmean(value * value for value in values) ** 0.5,
            1 / share,
            (share + SHARE_FLOOR) ** -AMPLIFICATION,
        )
        table.row(i, f"{sigmas[i]:.3f}", *(f"{number:.2f}" for number in numbers))


if __name__ == "__main__":
    main()
