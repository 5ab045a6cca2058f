"""What a skipped scale of Infinity is given: python examples/studies/scales.py [--prompts 16] [--first 40000000].

The small trained model (examples/infinity_demo) in upstream's unmodified loop, against its own pictures at the same
sampling seed. A row is what is done at the last scales (the words of --scales), or a rule at a target. PSNR is the mean
over pictures of each picture's, with the standard error of that mean; the worst is the picture with the lowest.
"another seed" is the floor: what another draw of the same prompt gives. FLOPs are those of the report, which equal
hooks (tests/test_official_infinity.py). Choices were made on prompts from 40,000,000 on, and are shown on those from
41,000,000 on.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from statistics import fmean

from trial import Table, told

TARGETS = (1.5, 2, 3, 4, 5)
FEW = "Z P C L S0.5 Ru Z,Z P,P P,Z S0.5,Z Z,R P,R C,C C,Z L,Z C,L Ru,C Ru,Z Ru,Ru,Z S0.5,Ru,Z Ru,C,Z Ru,Z,Z".split()
LISTS = (
    "Z C P L S0.5 S0.3 Ru Ru,Ru Ru,C S0.5,C C,C P,P C,Z P,Z L,L L,Z Z,Z S0.6,S0.5,Z Ru,Ru,C Ru,C,C C,C,C Z,Z,Z "
    "Z,R C,R P,R Ru,Z Ru,Ru,Z S0.5,Ru,Z Ru,C,Z Ru,Z,Z"
).split()
"""The last word is the last scale; those before the first word run."""


class Pictures:
    """Pictures of some prompts, one by one: those of the host, and what becomes of them."""

    def __init__(self, count: int, first: int, weights: Path | None) -> None:
        from infinity_demo import model
        from infinity_demo.pictures import pictures

        self.generate = model.generate
        self.model, self.vae = model.load(weights or model.WEIGHTS)
        self.prompts = pictures(range(first, first + count))[1]
        self.own = self.made()

    def made(self, other: int = 0, **settings):
        """(pictures, FLOPs of the host over those that ran, what was done at the scales).

        Args:
            other: added to the seeds.
            settings: of ours; none: the host alone.
        """
        import torch

        import scope_patch

        out, host, work, modes = [], 0.0, 0.0, ""
        for k, prompt in enumerate(self.prompts):
            if not settings:
                out.append(self.generate(self.model, self.vae, [prompt], k + other))
                continue
            with scope_patch.patched(self.model, strict=True, **settings) as run:
                out.append(self.generate(self.model, self.vae, [prompt], k))
            (planned,) = run.report["generations"][0]["planned"]
            host, work, modes = host + planned["host"], work + planned["work"], planned["modes"]
        return torch.cat(out), host / work if work else 1.0, modes

    def row(self, name: str, **settings) -> list[str]:
        """Cells of a line of the table."""
        from scope_patch.compare.metrics import per_frame

        pictures, times, modes = self.made(**settings) if settings else self.made(other=10_000)
        found = per_frame(self.own[0], pictures)
        finite = [min(each, 99.0) for each in found["psnr"]]
        ssim = f"{fmean(found['ssim']):.4f}"
        return [name, modes, f"{times:.2f}", told(finite, ".2f"), f"{min(finite):.2f}", ssim]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--prompts", type=int, default=16)
    p.add_argument("--first", type=int, default=40_000_000)
    p.add_argument("--weights", type=Path)
    p.add_argument("--only", nargs="+", help="these words of --scales alone")
    p.add_argument("--few", action="store_true", help="those by which the default was chosen")
    options = p.parse_args()

    from infinity_demo import upstream

    upstream.prepare()
    pictures = Pictures(options.prompts, options.first, options.weights)
    table = Table("done", "scales", "FLOPs, times less", "PSNR", "worst", "SSIM")
    table.row(*pictures.row("another seed"))
    for words in FEW if options.few else options.only or LISTS:
        table.row(*pictures.row(words, scales=f"R,{words}"))
    if options.few or options.only:
        return
    for rule, target in product("ZP", TARGETS):
        how = {"scales": rule, "target_speedup": target}
        table.row(*pictures.row(f"{rule}, target {target:g}", **how))
        table.row(*pictures.row(f"{rule}, target {target:g}, by the bound", placement="error", **how))


if __name__ == "__main__":
    main()
