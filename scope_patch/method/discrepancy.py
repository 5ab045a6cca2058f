"""How much a feature changed between two iterations (equation 4 of design §2)."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-8


def discrepancy(feature: Tensor, before: Tensor) -> float:
    """d = mean|f[i] - f[i-1]| / (mean|f[i-1]| + eps) over per-slot tensors [slots, ...] of equal shape.

    The mean over slots equals the mean over tokens, since every token of a slot has the slot's modulation.
    """
    return float((feature - before).abs().mean() / (before.abs().mean() + EPSILON))
