"""From 4 to 100 denoise steps: python examples/studies/few_steps.py [--prompts 4] [--only NAME ...].

A cell is steps/shift/ar_step of the demo model, 37 frames; in each, at each target, three ways to the same work: ours
(defaults), holding the last velocity at the same decisions, and the unpatched host with fewer steps (the fewest whose
work is not below ours; `ar_step` cut in proportion). The number is the relative error of the latents against the
unpatched video, mean and standard error over the prompts. A way that we are worse than, by more than two standard
errors of the paired difference, is named.
"""

from __future__ import annotations

from functools import partial
from math import sqrt
from statistics import fmean, stdev

from trial import Table, Trial, parser, told

CELLS = (
    *("4/3/0", "4/3/1", "4/8/0", "4/1/2", "6/3/0", "6/5/2", "6/12/0", "6/1/5"),
    *("8/1/0", "8/3/0", "8/3/2", "8/5/5", "8/8/0", "8/12/3", "10/3/0", "10/3/3", "10/5/1", "10/8/10"),
    *("12/1/0", "12/1/3", "12/3/0", "12/3/3", "12/5/5", "12/8/0", "12/12/2"),
    *("16/3/0", "16/3/5", "16/8/3", "16/1/10"),
    *("20/1/0", "20/3/0", "20/3/3", "20/5/5", "20/8/0", "20/12/10", "20/3/20"),
    *("25/3/0", "25/3/5", "25/8/2", "30/3/0", "30/3/5", "30/5/0", "30/1/3", "30/8/10", "30/12/0", "40/3/5", "40/8/0"),
    *("50/1/0", "50/3/0", "50/3/5", "50/8/0", "50/5/10", "50/3/20", "50/12/5"),
    *("75/3/5", "75/8/0", "100/3/0", "100/3/5", "100/8/10", "100/1/20"),
)
"""steps/shift/ar_step."""
TARGETS = (2, 3, 5)
FRAMES, BLOCKS = 37, 2


def iterations(steps: int, ar_step: int) -> int:
    return steps + ar_step * (BLOCKS - 1)


def fewer(steps: int, ar_step: int, speedup: float) -> tuple[int, int] | None:
    """(steps, ar_step) of the host alone, with at least 1/speedup of the iterations; None where these are its own."""
    for n in range(1, steps):
        lag = max(round(ar_step * n / steps), 1) if ar_step else 0
        if iterations(n, lag) * speedup >= iterations(steps, ar_step):
            return n, lag
    return None


def worse(ours: list[float], theirs: list[float]) -> float:
    """By how many standard errors of the paired difference ours are larger; differences below 0.001 are none."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = fmean(differences)
    spread = stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else 0.0
    return 0.0 if mean < 1e-3 else mean / max(spread, 1e-9)


def main() -> None:
    options = parser(__doc__, 4)
    options.add_argument("--only", nargs="+", choices=CELLS, default=CELLS, metavar="CELL")
    options.add_argument("--targets", type=float, nargs="+", default=TARGETS)
    options.add_argument("--tuning", action="store_true", help="the prompts that constants are chosen on")
    options.add_argument("--max-skip", type=int)
    args = options.parse_args()

    import torch

    from benchmark.prompts import PROMPTS, TUNING
    from demo_model import pipeline

    torch.set_num_threads(args.threads)
    more = {} if args.max_skip is None else {"max_skip": args.max_skip}
    prompts = (TUNING if args.tuning else PROMPTS)[: args.prompts]
    table = Table("steps/shift/ar_step", "target", "times less", "modes", "ours", "hold", "fewer steps", "worse than")
    count, worst = 0, []
    for name in args.only:
        steps, shift, ar_step = map(int, name.split("/"))
        pipe = pipeline.build_pipeline(shift=float(shift))
        pipe.set_progress_bar_config(disable=True)

        def make(text: str, k: int, steps: int, ar_step: int, pipe=pipe) -> torch.Tensor:
            return pipeline.sample(pipe, text, num_frames=FRAMES, seed=k, num_inference_steps=steps, ar_step=ar_step)

        trial = Trial(pipe, {text: partial(make, text, k, steps, ar_step) for k, text in enumerate(prompts)})
        plain = [made.latents for made in trial.references.values()]
        for target in args.targets:
            ours = trial.scores(target_speedup=target, **more)
            held = trial.scores(target_speedup=target, predictor="hold", **more)
            planned = ours[0].generation["planned"][0]
            errors = {"ours": [score.error for score in ours], "hold": [score.error for score in held]}
            instead = fewer(steps, ar_step, planned["speedup"])
            if instead is not None:
                made = [make(text, k, *instead) for k, text in enumerate(prompts)]
                errors["fewer steps"] = [
                    ((one - other).norm() / other.norm()).item() for one, other in zip(made, plain, strict=True)
                ]
            lost = {way: worse(errors["ours"], found) for way, found in errors.items() if way != "ours"}
            count += 1
            worst += [(by, name, target, way) for way, by in lost.items() if by > 2]
            reached = f"{planned['speedup']:.2f}{' (bound)' if planned['bound'] else ''}"
            few = f"{told(errors['fewer steps'], '.3f')} ({instead[0]}/{instead[1]})" if instead else ""
            named = ", ".join(f"{way} by {by:.1f}" for way, by in lost.items() if by > 2)
            mine, hold = told(errors["ours"], ".3f"), told(errors["hold"], ".3f")
            table.row(name, f"{target:g}", reached, planned["modes"], mine, hold, few, named)
    print(f"\n{count} settings; worse than another way by more than two standard errors: {len(worst)}")
    for by, name, target, way in sorted(worst, reverse=True)[:5]:
        print(f"{name} at {target:g}: {way}, by {by:.1f}")


if __name__ == "__main__":
    main()
