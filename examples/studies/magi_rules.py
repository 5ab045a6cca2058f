"""Which decision rule errs least at equal work: python examples/studies/magi_rules.py [--cfg 3].

Whole-window decisions against decisions chunk by chunk, and the timestep signal against the expected change, on the
official MAGI-1 loop (see magi.py). For every rule the predict threshold is searched that leaves about the wanted share
of the latent frames to be computed; the number is the relative error of the final latents there.
"""

from __future__ import annotations

from trial import Table, Trial, magi, magi_parser, mean

RULES = {
    "window, timestep": {"per_chunk": False, "signal": "timestep"},
    "window, expected": {"per_chunk": False, "signal": "expected"},
    "chunk, timestep": {"signal": "timestep"},
    "chunk, expected": {"signal": "expected"},
}


def search(trial: Trial, share: float, rounds: int, **settings) -> tuple[float, float, float]:
    """(share, error, threshold) where the share of latent frames is nearest to the wanted one."""
    low, high, found = 0.0, 1.0, []
    for _ in range(rounds):
        threshold = (low + high) / 2 if found else 0.05
        scores = trial.scores(cache_threshold=0, predict_threshold=threshold, **settings)
        part = scores[0].slots("computed") / scores[0].slots("baseline")
        found.append((abs(part - share), part, mean(scores, "error"), threshold))
        low, high = (threshold, min(high, 4 * threshold)) if part > share else (low, threshold)
    return min(found)[1:]


def main() -> None:
    options = magi_parser(__doc__)
    options.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.25, 0.33, 0.5])
    options.add_argument("--max-skip", type=int, nargs="+", default=[5, 9])
    options.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    options.add_argument("--rounds", type=int, default=7)
    args = options.parse_args()
    trial = magi(args)
    table = Table("rule", "at most", *(f"{share:.0%} of latent frames" for share in args.shares))
    for name in args.rules:
        for skips in args.max_skip:
            found = [search(trial, share, args.rounds, max_skip=skips, **RULES[name]) for share in args.shares]
            table.row(
                name, skips, *(f"{error:.4f} at {part:.1%} ({threshold:.3f})" for part, error, threshold in found)
            )


if __name__ == "__main__":
    main()
