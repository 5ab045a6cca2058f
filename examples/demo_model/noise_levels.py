"""Noise levels for training: one a block of latent frames, many of the clips as the sampler's staircase has them."""

from __future__ import annotations

import torch

from .dit import BLOCK

STEPS = 50  # denoise steps that the staircase is cut into


def shifted(u: torch.Tensor, shift: torch.Tensor | float) -> torch.Tensor:
    """The noise level at progress 1 - u under a shift; both ends stay."""
    return shift * u / (1 + (shift - 1) * u)


def one_clip(
    blocks: int, prefix: int, rng: torch.Generator, shares: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """[blocks] noise levels in [0, 1] and [blocks] loss weights; the first `prefix` blocks are history, clean."""

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=rng)

    free = blocks - prefix
    shift = (1.0, 3.0, 3.0, 3.0, 8.0)[int(uniform(1) * 5) % 5]
    weight = torch.ones(free)
    style = uniform(1).item()
    if style < shares[0]:
        lag = 5.0 if uniform(1).item() < 0.7 else 2 + 10 * uniform(1).item()
        lead = uniform(1) * (STEPS + lag * (free - 1))
        progress = lead - lag * torch.arange(free)
        u = 1 - (progress / STEPS).clamp(0, 1)
        waiting = progress < 0
        weight[waiting] = 0.1  # their velocity is not used before they start
    elif style < sum(shares):
        u = uniform(1).expand(free)
    else:
        u = uniform(free)
    sigma = shifted(u, shift)
    weight = torch.where(sigma > 0, weight, torch.zeros(()))
    history = 0.02 if uniform(1).item() < 0.3 else 0.0  # as with addnoise_condition=20
    sigma = torch.cat([torch.full((prefix,), history), sigma])
    return sigma, torch.cat([torch.zeros(prefix), weight])


def sample_noise_levels(
    offsets: list[int], frames: int, rng: torch.Generator, shares: tuple[float, float] = (0.5, 0.25)
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, frames] noise levels and loss weights for windows of clips that begin at the latent frames `offsets`.

    `shares` of the clips are a staircase, and at one level throughout; the rest have a level of its own for each block.

    A window that does not begin at its clip's first frame is the continuation of a long video: its first block is
    clean history. So is that of 15 % of the others.
    """
    blocks = frames // BLOCK
    rows = []
    for offset in offsets:
        draw = torch.rand(2, generator=rng).tolist()
        history = offset > 0 or draw[0] < 0.15
        prefix = (2 if blocks > 2 and draw[1] < 0.2 else 1) if history else 0
        rows.append(one_clip(blocks, prefix, rng, shares))
    sigma, weight = (torch.stack(part).repeat_interleave(BLOCK, dim=1) for part in zip(*rows, strict=True))
    return sigma, weight
