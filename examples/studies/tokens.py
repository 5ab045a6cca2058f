"""Half the tokens on every other recompute: python examples/studies/tokens.py [--host physics] [--targets 5 6.4 8].

A recompute might forward only the tokens that change most, the others going on from their own last two velocities, and
being seen by keys and values that go on likewise. What that would give is found without building it: all tokens are
forwarded, but the unchosen are seen by extrapolated keys, and their velocities are thrown away. `fresh keys` is the
most that better keys could give. PSNR against plain plans of equal work, counted as if half of the tokens cost half of
a forward; all latent frames are forwarded, so that both count alike.
"""

from __future__ import annotations

from functools import partial
from statistics import fmean

import torch

from trial import Table, Trial, asked, parser, told

DAMPED, REACH = 0.6, 2.0
"""How far a slope is followed: this part of it, and so many of its own steps."""
TOKENS = 16  # a latent frame
SETTINGS = {"selective": False, "frozen_keys": "off"}
STARTED, FINISHED = 0.998, 1e-6  # noise levels between which a latent frame is under way


class Branch:
    """What is known of one guidance branch's tokens: at which levels each was forwarded last, and what came then."""

    def __init__(self) -> None:
        self.at: list[torch.Tensor] = []  # [1, tokens, 1] levels, the newest first
        self.kept: dict[object, list[torch.Tensor]] = {}  # by layer and kind, [B, tokens, channels] at those levels
        self.chosen = torch.ones(())

    def extrapolated(self, key: object, level: torch.Tensor) -> torch.Tensor:
        newest, older = self.kept[key]
        at, before = self.at
        step = at - before
        moved = step.abs() > FINISHED
        way = (level - at).clamp(-REACH * step.abs(), REACH * step.abs())
        return newest + torch.where(moved, DAMPED * way / torch.where(moved, step, 1.0), 0.0) * (newest - older)

    def keep(self, key: object, out: torch.Tensor) -> None:
        """What the chosen tokens gave."""
        newest, older = self.kept.get(key, (out, out))
        self.kept[key] = [torch.where(self.chosen, out, newest), torch.where(self.chosen, newest, older)]


class Tokens:
    """Stands in a DiT of diffusers, and throws away what was not chosen.

    Attributes:
        share: of the tokens under way that every other recompute forwards, behind two of all; 1: all.
        fresh: the unchosen are seen as they are.
    """

    def __init__(self, dit: torch.nn.Module) -> None:
        self.share, self.fresh = 1.0, False
        dit.condition_embedder.register_forward_pre_hook(self._begins)
        for number, block in enumerate(dit.blocks):
            for part in ("to_k", "to_v"):
                getattr(block.attn1, part).register_forward_hook(partial(self._seen, (number, part)))
        dit.proj_out.register_forward_hook(self._ends)
        self.begin()

    def begin(self) -> None:
        """A new video."""
        self._calls, self._branches = 0, (Branch(), Branch())
        self.forwarded = 0.0  # in whole forwards

    def _begins(self, _, args) -> None:
        self._branch = branch = self._branches[self._calls % 2]
        recompute = self._calls // 2
        self._calls += 1
        self._level = args[0].reshape(-1, 1).expand(-1, TOKENS).reshape(1, -1, 1) / 1000
        self._under_way = (self._level < STARTED) & (self._level > FINISHED)
        self._some = self.share < 1 and recompute >= 2 and recompute % 2 == 0 and len(branch.at) == 2
        self.forwarded += 0.5 * (self.share if self._some else 1.0)
        branch.chosen = torch.ones_like(self._under_way)
        if self._some:
            (newest, older), (at, before) = branch.kept["velocity"], branch.at
            step = (at - before).abs()
            rate = (newest - older).norm(dim=2, keepdim=True) / step.clamp(min=FINISHED)
            change = torch.where(step > FINISHED, rate * (self._level - at).abs(), torch.inf)
            change = torch.where(self._under_way, change, 0.0)
            best = change.flatten().topk(round(self.share * int(self._under_way.sum()))).indices
            branch.chosen = torch.zeros_like(self._under_way).index_fill(1, best, True)

    def _seen(self, key, _, __, out):
        branch, shown = self._branch, out
        if self._some and not self.fresh:
            shown = torch.where(branch.chosen, out, branch.extrapolated(key, self._level))
        branch.keep(key, out)
        return shown

    def _ends(self, _, __, out):
        branch, given = self._branch, out
        if self._some:
            given = torch.where(branch.chosen | ~self._under_way, out, branch.extrapolated("velocity", self._level))
        branch.keep("velocity", out)
        at, before = branch.at or (self._level, self._level)
        branch.at = [torch.where(branch.chosen, self._level, at), torch.where(branch.chosen, at, before)]
        return given


def main() -> None:
    options = parser(__doc__, 4, hosts=True)
    options.add_argument("--targets", type=float, nargs="+", default=[5, 6.4, 8])
    options.add_argument("--share", type=float, default=0.5)
    args = options.parse_args()

    from benchmark.hosts import HOSTS, film

    torch.set_num_threads(args.threads)
    made = film(args.host)
    tokens = Tokens(made.dit)

    def begun(text: str, seed: int):
        tokens.begin()
        return made.sample(text, seed=seed, **asked(args))

    prompts = HOSTS[args.host].filmed[: args.prompts]
    trial = Trial(made.target, {text: partial(begun, text, k) for k, text in enumerate(prompts)}, made.decode)
    whole = tokens.forwarded
    table = Table("target", "tokens", "forwards, times fewer", "PSNR", "beside all", "each")
    for target in args.targets:
        plain: list[float] = []
        for name, share, fresh in (("all", 1.0, True), ("some", args.share, False), ("fresh keys", args.share, True)):
            tokens.share, tokens.fresh = share, fresh
            fewer, found = [], []
            for text in prompts:
                # A plan in which half of the recomputes cost a share of one has so many more of them.
                found.append(trial.score(text, target_speedup=target * (1 + share) / 2, **SETTINGS).psnr)
                fewer.append(whole / tokens.forwarded)
            plain = plain or found
            gains = [a - b for a, b in zip(found, plain, strict=True)]
            gain = told(gains, "+.1f") if len(gains) > 1 else ""
            each = " ".join(f"{psnr:.1f}" for psnr in found)
            table.row(f"{target:g}", name, f"{fmean(fewer):.2f}", f"{fmean(found):.1f}", gain, each)


if __name__ == "__main__":
    main()
