"""What a difference in one segment becomes in later ones: python examples/studies/continued.py [--num-frames 257].

A segment is 97 frames, of which the first 17 are the end of the one before. At every target the PSNR of each segment's
new frames against the unpatched video, mean and standard error over the prompts, and of the frames that are handed on.
"""

from __future__ import annotations

from statistics import fmean

from trial import Table, demo, parser, told

FIRST, MORE, HANDED = 97, 80, 17
"""Video frames: of the first segment, new ones of every other, and those that the next one begins with."""


def cuts(frames: int) -> list[tuple[int, int]]:
    """[start, end) of the new frames of every segment."""
    ends = [FIRST, *range(FIRST + MORE, frames, MORE), frames] if frames > FIRST else [frames]
    return list(zip([0, *ends], ends, strict=False))


def main() -> None:
    options = parser(__doc__, 4)
    options.add_argument("--host", default="demo", help="one of benchmark/hosts.py (default: %(default)s)")
    options.add_argument("--num-frames", type=int, default=257, help="97 and so many times 80")
    options.add_argument("--ar-step", type=int, default=5)
    options.add_argument("--targets", type=float, nargs="+", default=[2, 3, 4, 5])
    args = options.parse_args()

    from benchmark.hosts import HOSTS
    from scope_patch.compare.metrics import psnr

    filmed = HOSTS[args.host].filmed[: args.prompts]
    trial = demo(filmed, args.threads, args.host, num_frames=args.num_frames, ar_step=args.ar_step)
    parts = cuts(args.num_frames)
    table = Table("target", "latent frames", *(f"segment {k}" for k in range(1, len(parts) + 1)), "handed on, each")
    for target in args.targets:
        scores = {name: trial.score(name, target_speedup=target) for name in filmed}
        pairs = [(trial.references[name].frames, score.frames) for name, score in scores.items()]
        each = [told([psnr(a[start:end], b[start:end]) for a, b in pairs], ".1f") for start, end in parts]
        handed = [fmean(psnr(a[end - HANDED : end], b[end - HANDED : end]) for a, b in pairs) for _, end in parts[:-1]]
        work = fmean(score.slots("baseline") / score.slots("computed") for score in scores.values())
        table.row(f"{target:g}", f"1/{work:.2f}", *each, ", ".join(f"{value:.1f}" for value in handed))


if __name__ == "__main__":
    main()
