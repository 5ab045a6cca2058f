"""Train the DiT by flow matching with one noise level a block.

The blocks' matrix products are in bfloat16, weights and sums in float32: a CPU with tiles for it takes half the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import SkyReelsV2Transformer3DModel

import training

from .dit import BLOCK, SHORTEST_WAVE, build_dit, low_pass_
from .fast_forward import block_causal_mask, block_forward, fast_forward, rope_tables
from .noise_levels import sample_noise_levels

TOKENS = 16  # a latent frame
SHORT, LONG = (10, 20), (25, 8)  # latent frames and batch of the first half of the training and of the second


@dataclass(frozen=True)
class Attention:
    """What a model is trained for: who sees whom, and which noise levels come together.

    Attributes:
        unmasked: share of the batches without a mask; in the others no latent frame sees a block after its own.
        shares: of the clips, as in `sample_noise_levels`.
    """

    unmasked: float
    shares: tuple[float, float]


BLOCK_CAUSAL = Attention(unmasked=0.15, shares=(0.5, 0.25))
"""As diffusers runs it in asynchronous mode, and at times as the official code does by default."""
FULL = Attention(unmasked=1.0, shares=(0.5, 0.35))
"""The official default, with the synchronous mode that its authors recommend for long videos."""


class Trainer(training.Trainer):
    """`data` and `held_out` as latents.py makes them."""

    def __init__(
        self,
        data: dict,
        held_out: dict,
        shortest_wave: float = SHORTEST_WAVE,
        seed: int = 0,
        compiled: bool = True,
        attention: Attention = BLOCK_CAUSAL,
    ):
        torch.manual_seed(seed)
        self.data, self.held_out, self.shortest_wave = data, held_out, shortest_wave
        self.attention = attention
        model = build_dit()
        torch.nn.init.zeros_(model.proj_out.weight)
        super().__init__(model, build_dit(), model.blocks, seed)
        # One block compiled once serves all eight; compiling the whole model takes a minute a shape.
        block = torch.compile(block_forward, dynamic=False) if compiled else block_forward
        self.forward = partial(fast_forward, block_forward=block, half=True)

    def batch(self, frames: int, size: int, data: dict, rng: torch.Generator):
        """Windows of clips, [size, 16, frames, 8, 8], their prompts, noise levels and weights, [size, frames]."""
        clips = torch.randint(len(data["latents"]), (size,), generator=rng)
        offsets = torch.randint(1, data["latents"].shape[2] - frames + 1, (size,), generator=rng)
        offsets = (offsets * (torch.rand(size, generator=rng) < 0.3)).tolist()
        windows = zip(clips.tolist(), offsets, strict=True)
        x = torch.stack([data["latents"][clip, :, o : o + frames] for clip, o in windows]).float()
        text = data["text"][clips].float()
        text = text * (torch.rand(size, 1, 1, generator=rng) >= 0.1)  # no prompt: for guidance
        sigma, weight = sample_noise_levels(offsets, frames, rng, self.attention.shares)
        noise = torch.randn(x.shape, generator=rng)
        return x, text, sigma, weight, noise

    def loss(self, batch, block: int | None, model=None, forward=None) -> torch.Tensor:
        """Mean squared error of the velocity over the blocks that are being denoised; no mask without a `block`."""
        x, text, sigma, weight, noise = batch
        level = sigma[:, None, :, None, None]
        mask = block_causal_mask(x.shape[2], TOKENS, block) if block else None
        rope = rope_tables(self.model, x)
        noised = torch.lerp(x, noise, level.expand_as(x))
        out = (forward or self.forward)(model or self.model, noised, sigma * 1000, text, mask, rope)
        error = (out - (noise - x)).square().mean(dim=(1, 3, 4))
        return (error * weight).sum() / weight.sum()

    def batch_loss(self, progress: float) -> torch.Tensor:
        frames, size = SHORT if progress < 0.5 else LONG
        batch = self.batch(frames, size, self.data, self.rng)
        unmasked = torch.rand((), generator=self.rng) < self.attention.unmasked
        return self.loss(batch, None if unmasked else BLOCK)

    def constrain(self) -> None:
        low_pass_(self.model, self.shortest_wave)

    @torch.no_grad()
    def validate(self, batches: int = 6) -> float:
        rng = torch.Generator().manual_seed(12345)
        forward = partial(fast_forward, half=True)
        block = None if self.attention.unmasked == 1 else BLOCK
        losses = [
            self.loss(self.batch(*LONG, self.held_out, rng), block, self.average, forward).item()
            for _ in range(batches)
        ]
        return sum(losses) / batches

    def write(self, folder: Path) -> None:
        half = build_dit()
        half.load_state_dict(self.average.state_dict())
        half.half().save_pretrained(folder)

    def read(self, folder: Path) -> dict[str, torch.Tensor]:
        return SkyReelsV2Transformer3DModel.from_pretrained(folder).state_dict()
