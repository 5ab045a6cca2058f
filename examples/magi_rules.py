"""Which decision rule errs least at equal work: python examples/magi_rules.py [--num-frames 240 --steps 64 --cfg 1].

Whole-window decisions against decisions chunk by chunk, and the timestep signal against the embedded latents, on the
official MAGI-1 loop (see magi.py). For every rule the predict threshold is searched that leaves about the wanted share
of the latent frames to be computed; the number is the relative error of the final latents there.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from magi import measure
from magi_cpu import host

RULES = {
    "window, timestep": {"per_chunk": False, "signal": "timestep"},
    "window, latents": {"per_chunk": False, "signal": "latent"},
    "window, expected": {"per_chunk": False, "signal": "expected"},
    "chunk, timestep": {"signal": "timestep"},
    "chunk, expected": {"signal": "expected"},
    "chunk, latents": {"signal": "latent"},
}


def search(model, options, reference, share: float, rounds: int, **settings):
    """(share, error) at the threshold whose share of latent frames is nearest to the wanted one."""
    low, high, found = 0.0, 1.0, []
    for _ in range(rounds):
        threshold = (low + high) / 2 if found else 0.05
        *_, part, error = measure(model, options, reference, cache_threshold=0, predict_threshold=threshold, **settings)
        found.append((abs(part - share), part, error, threshold))
        low, high = (threshold, high) if part > share else (low, threshold)
        high = min(high, 4 * threshold) if part > share else high
    return min(found)[1:]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = host.Options(num_frames=240, steps=64)
    for field in fields(host.Options):
        if field.type != "bool":
            value = getattr(defaults, field.name)
            parser.add_argument("--" + field.name.replace("_", "-"), type=type(value), default=value)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.25, 0.33, 0.5])
    parser.add_argument("--max-skip", type=int, nargs="+", default=[5, 9])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    options = host.Options(**{f.name: getattr(args, f.name) for f in fields(host.Options) if hasattr(args, f.name)})
    host.prepare()
    model = host.build(options)
    reference = host.generate(model, options)
    print("| rule | at most | " + " | ".join(f"{share:.0%} of latent frames" for share in args.shares) + " |")
    print("|---|---|" + "---|" * len(args.shares), flush=True)
    for name in args.rules:
        rule = RULES[name]
        for skips in args.max_skip:
            cells = []
            for share in args.shares:
                part, error, threshold = search(model, options, reference, share, args.rounds, max_skip=skips, **rule)
                cells.append(f"{error:.4f} at {part:.1%} ({threshold:.3f})")
            print(f"| {name} | {skips} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
