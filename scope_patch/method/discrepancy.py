"""How much a feature of the timestep changed between two iterations (equation 4 of design §2).

The feature of a slot depends on the slot's timestep alone, and all slots' features have one size. So the means over
slots are means of numbers that belong to pairs of timesteps, and a schedule has few of those: each is worked out once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

EPSILON = 1e-8

Feature = Callable[[Tensor], Tensor]
"""Timesteps [n] -> features [n, ...]."""


class Discrepancy:
    """d = mean|f[i] - f[i-1]| / (mean|f[i-1]| + eps), over the slots that two iterations share.

    Args:
        feature: asked for each timestep once, in batches.
        timesteps: [iterations, slots] of a schedule; what its iterations will ask for is measured at once.
    """

    def __init__(self, feature: Feature, timesteps: Tensor | None = None) -> None:
        self.feature = feature
        self._features: dict[float, Tensor] = {}
        self._change: dict[tuple[float, float], float] = {}
        self._size: dict[float, float] = {}
        if timesteps is not None and timesteps.shape[0] > 1:
            steps = torch.stack([timesteps[1:].flatten(), timesteps[:-1].flatten()], dim=1)
            self._measure([(now, before) for now, before in torch.unique(steps, dim=0).tolist()])

    def __call__(self, now: Sequence[float], before: Sequence[float]) -> float | None:
        """d between the timesteps of the same slots at this and the last iteration; None without a slot."""
        pairs = list(zip(now, before, strict=True))
        if not pairs:
            return None
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._change]
        if new:
            self._measure(new)
        change = sum(self._change[pair] for pair in pairs) / len(pairs)
        return change / (sum(self._size[timestep] for _, timestep in pairs) / len(pairs) + EPSILON)

    def _measure(self, pairs: list[tuple[float, float]]) -> None:
        unknown = [t for t in dict.fromkeys(t for pair in pairs for t in pair) if t not in self._features]
        if unknown:
            features = self.feature(torch.tensor(unknown, dtype=torch.float64))
            self._features.update(zip(unknown, features.flatten(1).unbind(), strict=True))
        now, before = (torch.stack([self._features[pair[k]] for pair in pairs]) for k in (0, 1))
        change = (now - before).abs().mean(dim=1).tolist()
        size = before.abs().mean(dim=1).tolist()
        self._change.update(zip(pairs, change, strict=True))
        self._size.update((pair[1], value) for pair, value in zip(pairs, size, strict=True))
