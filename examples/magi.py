"""Forwards against error on the official MAGI-1 loop: python examples/magi.py [--num-frames 240 --steps 64].

Needs a clone of github.com/SandAI-org/MAGI-1; everything else runs on a CPU. The model is tiny and random, but smooth
in the timestep (see magi_cpu/weights.py): it can rank predictors and decision rules, it cannot say how a film looks.
The number is ||x - x'|| / ||x'|| of the final latents, x' being those of the unpatched loop with the same noise.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from magi_cpu import host


def measure(model, options, reference, **settings):
    """(forwards run, forwards of the unpatched loop, latent frames computed / baseline, relative error)."""
    import scope_patch

    count = host.Counter(model)
    with scope_patch.patched(model, strict=True, **settings) as run:
        latents = host.generate(model, options)
    count.remove()
    generation = run.report["generations"][0]
    forwards = generation["forwards"]
    assert forwards["run"] == count.forwards, f"the report says {forwards['run']} forwards, {count.forwards} ran"
    segments = generation["segments"]
    computed, baseline = (sum(segment[name] for segment in segments) for name in ("slots_computed", "slots_baseline"))
    error = float((latents - reference).norm() / reference.norm())
    return forwards["run"], forwards["baseline"], computed / baseline, error


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = host.Options(num_frames=240, steps=64)
    for field in fields(host.Options):
        if field.type == "bool":
            continue
        value = getattr(defaults, field.name)
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(value), default=value)
    parser.add_argument("--skips", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--predictors", nargs="+", default=["hold", "taylor1", "taylor2", "momentum", "auto"])
    parser.add_argument("--seeds", type=int, default=1, help="noises to average over")
    args = parser.parse_args(argv)
    options = host.Options(**{f.name: getattr(args, f.name) for f in fields(host.Options) if hasattr(args, f.name)})
    host.prepare()
    model = host.build(options)
    seeds = [replace(options, seed=options.seed + k) for k in range(args.seeds)]
    references = [host.generate(model, each) for each in seeds]
    print("| at most | forwards | latent frames | " + " | ".join(args.predictors) + " |")
    print("|---|---|---|" + "---|" * len(args.predictors), flush=True)
    for skips in args.skips:
        cells = []
        for name in args.predictors:
            found = [
                measure(
                    model, each, reference, cache_threshold=0, predict_threshold=1e9, max_skip=skips, predictor=name
                )
                for each, reference in zip(seeds, references, strict=True)
            ]
            cells.append(f"{sum(error for *_, error in found) / len(found):.4f}")
        run, baseline, share, _ = found[0]
        print(f"| {skips} skips | {run} of {baseline} | {share:.0%} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
