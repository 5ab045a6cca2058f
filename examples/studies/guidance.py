"""Forwarding one guidance branch alone: python examples/studies/guidance.py [--targets 4 5].

On every other recompute the unconditional velocity is not asked for but made from the last one, and from how the
conditional one has changed since: v_u + k (c - c_old). k is fitted by noise level on two of the prompts that are for
choosing. PSNR over DiT work, on prompts of the tables, against all recomputes in full; all latent frames are forwarded,
so that both count alike.
"""

from __future__ import annotations

from functools import partial
from statistics import fmean

import torch

from trial import Score, Table, Trial, parser

TOKENS = 16  # a latent frame
BINS = 8
"""Of the noise level, each with its own k."""
SETTINGS = {"selective": False, "frozen_keys": "off"}


class Branches:
    """Sees both branches of the demo's DiT, in token velocities [B, tokens, channels], and leaves one out.

    Attributes:
        skips: every other recompute forwards the conditional branch alone, but where latent frames are new.
        k: [BINS]; how much of the conditional branch's change the other one shares.
    """

    def __init__(self, dit: torch.nn.Module) -> None:
        self.skips, self.k = False, torch.zeros(BINS)
        self.products = torch.zeros(2, BINS)  # of changes: one branch's with the other's, and with itself
        self._bypassed = False
        for block in dit.blocks:
            block.forward = partial(self._block, block.forward)
        dit.condition_embedder.register_forward_pre_hook(self._begins)
        dit.proj_out.register_forward_hook(self._ends)
        self.begin()

    def begin(self) -> None:
        """A new video."""
        self._unconditional = True  # the next call is the other one's
        self._full = False
        self._old: list[torch.Tensor] = []  # of both branches, when both were asked last

    def _begins(self, _, args) -> None:
        self._levels = args[0].reshape(-1) / 1000
        self._unconditional = not self._unconditional
        if not self._unconditional:
            frames = self._old[0].shape[1] // TOKENS if len(self._old) == 2 else 0
            self._full = not self._full or not self.skips or frames != len(self._levels)
        self._bypassed = self._unconditional and not self._full

    def _block(self, forward, hidden_states, *args, **kwargs):
        return hidden_states if self._bypassed else forward(hidden_states, *args, **kwargs)

    def _ends(self, _, __, out):
        if not self._unconditional:
            self._conditional = out
            return None
        if len(self._old) == 2 and self._old[0].shape == out.shape:
            changed = self._conditional - self._old[0]
            bins = (self._levels.repeat_interleave(TOKENS) * BINS).long().clamp(max=BINS - 1)
            if self._bypassed:
                return self._old[1] + self.k[bins][None, :, None] * changed
            for row, other in enumerate((out - self._old[1], changed)):
                self.products[row].index_add_(0, bins, (other * changed).sum(dim=(0, 2)))
        self._old = [self._conditional, out]
        return None


def main() -> None:
    options = parser(__doc__, 4)
    options.add_argument("--targets", type=float, nargs="+", default=[3, 4, 5])
    args = options.parse_args()

    from benchmark.hosts import film
    from benchmark.prompts import PROMPTS, TUNING

    torch.set_num_threads(args.threads)
    made = film("demo")
    branches = Branches(made.dit)

    def begun(text: str, seed: int):
        branches.begin()
        return made.sample(text, seed=seed)

    def trial(prompts) -> Trial:
        videos = {text: partial(begun, text, seed) for seed, text in enumerate(prompts)}
        return Trial(made.target, videos, made.decode, made.dit)

    fitting = trial(TUNING[:2])
    branches.products.zero_()
    fitting.scores(target_speedup=4, **SETTINGS)
    branches.k = branches.products[0] / branches.products[1].clamp(min=1e-9)
    print("k, from noise level 0 to 1:", *(f"{k:.2f}" for k in branches.k))
    shown = trial(PROMPTS[: args.prompts])
    plain = fmean(reference.flops for reference in shown.references.values())
    table = Table("target", "recomputes", "DiT work, times less", "PSNR", "each")
    fitted = branches.k
    for target in args.targets:
        for name, skips, k in (
            ("both branches", False, fitted), ("every other with the old v_u", True, 0 * fitted),
            ("the same, corrected by k", True, fitted),
        ):  # fmt: skip
            branches.skips, branches.k = skips, k
            scores: list[Score] = shown.scores(target_speedup=target, **SETTINGS)
            less = plain / fmean(score.flops for score in scores)
            each = " ".join(f"{score.psnr:.1f}" for score in scores)
            table.row(f"{target:g}", name, f"{less:.2f}", f"{fmean(score.psnr for score in scores):.1f}", each)


if __name__ == "__main__":
    main()
