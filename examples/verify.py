"""Does the error that --verify reports say which settings hold? python examples/verify.py [--prompts 2] [--every 3 7].

On the demo model, at several target speed-ups and --max-skip 8: the PSNR of the setting as it is (against the unpatched
video), the errors of predictions that --verify finds in it without tightening, beside those that the error bound
expects, and with --bounds what becomes of it when --verify tightens at each of those.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean, median

sys.path.insert(0, str(Path(__file__).resolve().parent))

NEVER = 1e9
"""A bound that only what is no number exceeds."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2, help="how many of evaluate.py's")
    parser.add_argument("--prompt", nargs="+", metavar="TEXT", help="these instead; the seed is the place in the list")
    parser.add_argument("--targets", type=float, nargs="+", default=[2, 3, 4, 5, 6])
    parser.add_argument("--every", type=int, nargs="+", default=[3, 7])
    parser.add_argument("--bounds", type=float, nargs="*", default=[], help="runs that tighten at these, too")
    args = parser.parse_args(argv)

    import scope_patch
    from demo_model import pipeline
    from evaluate import PROMPTS
    from scope_patch.compare.metrics import psnr

    pipe = pipeline.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    prompts = args.prompt or PROMPTS[: args.prompts]
    references = [
        pipeline.decode(pipe, pipeline.sample(pipe, prompt, seed=seed))[0] for seed, prompt in enumerate(prompts)
    ]

    def run(seed: int, **settings):
        """(PSNR, the generation's report)"""
        with scope_patch.patched(pipe, **settings, max_skip=8, strict=True) as record:
            latents = pipeline.sample(pipe, prompts[seed], seed=seed)
        return psnr(references[seed], pipeline.decode(pipe, latents)[0]), record.report["generations"][0]

    print(
        "| target | prompt | PSNR | --verify | verified | true error: median | largest | expected: median | largest |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for target in args.targets:
        for seed in range(len(prompts)):
            plain = run(seed, target_speedup=target)[0]
            for every in args.every:
                found = verified(run(seed, target_speedup=target, verify=every, verify_bound=NEVER)[1])
                errors, expected = ([each[name] for each in found] for name in ("error", "expected"))
                numbers = " | ".join(f"{of(row):.3f}" for row in (errors, expected) for of in (median, max))
                print(
                    f"| {target:g} | {prompts[seed]} | {plain:.1f} | {every} | {len(found)} | {numbers} |", flush=True
                )
    if args.bounds:
        print("\n| target | --verify | bound | above it | forwards | PSNR |\n|---|---|---|---|---|---|")
    for target in args.targets if args.bounds else ():
        for every in args.every:
            for bound in (*args.bounds, NEVER):
                made = [
                    run(seed, target_speedup=target, verify=every, verify_bound=bound) for seed in range(len(prompts))
                ]
                above = fmean(sum(each["tightened"] is not None for each in verified(told)) for _, told in made)
                forwards = fmean(told["forwards"]["run"] for _, told in made)
                name = "none" if bound == NEVER else f"{bound:g}"
                quality = fmean(value for value, _ in made)
                print(f"| {target:g} | {every} | {name} | {above:.1f} | {forwards:.0f} | {quality:.1f} |", flush=True)


def verified(generation: dict) -> list[dict]:
    return [each for segment in generation["segments"] for each in segment["verified"]]


if __name__ == "__main__":
    main()
