"""A small image autoencoder with multi-scale binary spherical quantisation: what upstream's loop asks of a VAE.

Stride 4: [B, 3, 64, 64] in [-1, 1] <-> [B, BITS, 16, 16]. The quantiser is upstream's own `MultiScaleBSQ`, and so is
the residual coding over scales: each scale adds sign bits of what the coarser ones left.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from demo_model.layers import ResBlock

BITS, SIDE = 10, 16


class Autoencoder(nn.Module):
    """Attributes that the loop reads: embed_dim, codebook_dim, vocab_size, quantizer; and `decode`."""

    def __init__(self, bits: int = BITS, dim: int = 64):
        super().__init__()
        from infinity.models.bsq_vae.multiscale_bsq import MultiScaleBSQ

        self.embed_dim = self.codebook_dim = bits
        self.vocab_size = 2**bits
        self.quantizer = MultiScaleBSQ(dim=bits, codebook_size=2**bits, new_quant=True, schedule_mode="dynamic")
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, dim, 3, padding=1),
            ResBlock(dim),
            ResBlock(dim),
            nn.Conv2d(dim, bits, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(bits, dim, 3, padding=1), ResBlock(dim), ResBlock(dim), ResBlock(dim), nn.SiLU(),
            nn.Conv2d(dim, 48, 3, padding=1), nn.PixelShuffle(4),
        )  # fmt: skip

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, 64, 64] -> [B, BITS, 16, 16], before quantisation."""
        return self.encoder(image)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """[B, BITS, 16, 16], summed codes -> [B, 3, 64, 64] in [-1, 1]."""
        return self.decoder(codes).clamp(-1, 1)

    @torch.no_grad()
    def bits(self, code: torch.Tensor, schedule, flips: torch.Tensor | None = None):
        """Residual coding: bits [B, h w, BITS] of every scale, inputs of every scale but the first, summed codes.

        The loop's own arithmetic, with one addition: `flips` [B] is the share of bits that are turned before the next
        scale sees them (bitwise self-correction, arXiv 2412.04431), so that later scales learn to mend earlier ones.
        """
        lfq, up = self.quantizer.lfq, self.quantizer.z_interplote_up
        target, summed, labels, inputs = code.float().unsqueeze(2), 0.0, [], []
        for scale, size in enumerate(schedule):
            left = target - summed
            if size != tuple(schedule[-1]):
                left = F.interpolate(left, size=size, mode=self.quantizer.z_interplote_down)
            bits = lfq(left).bit_indices  # [B, 1, h, w, BITS]
            labels.append(bits.flatten(1, 3))
            if flips is not None:
                turned = torch.rand(bits.shape) < flips.view(-1, 1, 1, 1, 1)
                bits = torch.where(turned, 1 - bits, bits)
            codes = lfq.indices_to_codes(bits, label_type="bit_label")
            summed = summed + F.interpolate(codes, size=schedule[-1], mode=up)
            if scale + 1 < len(schedule):
                following = F.interpolate(summed, size=schedule[scale + 1], mode=up)
                inputs.append(following.squeeze(2).flatten(2).transpose(1, 2))
        return labels, inputs, summed.squeeze(2)
