"""Train the DiT by flow matching, chunk by chunk at a time of its own: x_t = t clean + (1 - t) noise."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

import training

from .levels import draw_levels
from .model import CHUNK, Sizes, VideoDiT, block_forward, low_pass_, save_model

SHORT, LONG = (3, 13), (5, 8)  # chunks and batch of the first half of the training and of the second
FILE = "dit.safetensors"


class Trainer(training.Trainer):
    """Data: {"latents": [N, 16, 30, 8, 8] half, "text": [N, 16, 64] half, zero beyond the last word}.

    Args:
        dtype: what matrices are multiplied in; bfloat16 is faster where the processor has units for it (AMX).
    """

    def __init__(
        self, data: dict, held_out: dict, sizes: Sizes | None = None, dtype=torch.bfloat16, seed: int = 0,
        compiled: bool = True,
    ):  # fmt: skip
        torch.manual_seed(seed)
        self.data, self.held_out, self.dtype = data, held_out, dtype
        model = VideoDiT(sizes)
        super().__init__(model, VideoDiT(sizes), model.videodit_blocks, seed)
        # One block compiled once serves all; compiling the whole model takes minutes a shape.
        self.block = torch.compile(block_forward, dynamic=False) if compiled else block_forward

    def batch(self, chunks: int, size: int, data: dict, rng: torch.Generator):
        """Windows of clips [size, 16, 6 chunks, 8, 8], their text and its lengths, Levels, and noise."""
        clips = torch.randint(len(data["latents"]), (size,), generator=rng).tolist()
        room = data["latents"].shape[2] // CHUNK - chunks
        offsets = torch.randint(1, room + 1, (size,), generator=rng) if room else torch.zeros(size, dtype=torch.long)
        offsets = (offsets * (torch.rand(size, generator=rng) < 0.5)).tolist()
        windows = [(clip, slice(o * CHUNK, (o + chunks) * CHUNK)) for clip, o in zip(clips, offsets, strict=True)]
        x = torch.stack([data["latents"][clip, :, window] for clip, window in windows]).float()
        text = data["text"][clips].float()
        lengths = (text != 0).any(dim=-1).sum(dim=-1).clamp(min=1)
        levels = draw_levels([o == 0 for o in offsets], chunks, rng)
        return x, text, lengths, levels, torch.randn(x.shape, generator=rng)

    def loss(self, batch, forward) -> torch.Tensor:
        """Mean squared error of the velocity over the chunks that are being denoised."""
        x, text, lengths, levels, noise = batch
        t, weight, reads, says, sees = levels
        level = t.where(weight > 0, torch.ones(()))  # history has no noise, whatever its keys are told
        noised = torch.lerp(noise, x, level.repeat_interleave(CHUNK, dim=1)[:, None, :, None, None].expand_as(x))
        out = forward(noised, t, text, lengths, reads, says, sees)
        error = (out - self.wanted(batch, noised)).square().unflatten(2, (-1, CHUNK)).mean(dim=(1, 3, 4, 5))
        return (error * weight).sum() / weight.sum()

    def wanted(self, batch, noised: torch.Tensor) -> torch.Tensor:
        """The velocity that is learnt."""
        x, *_, noise = batch
        return x - noise

    def batch_loss(self, progress: float) -> torch.Tensor:
        batch = self.batch(*(SHORT if progress < 0.5 else LONG), self.data, self.rng)
        return self.loss(batch, partial(self.model, dtype=self.dtype, block_forward=self.block))

    def constrain(self) -> None:
        low_pass_(self.model)

    @torch.no_grad()
    def validate(self, batches: int = 6) -> float:
        rng = torch.Generator().manual_seed(12345)
        losses = [self.loss(self.batch(*LONG, self.held_out, rng), self.average).item() for _ in range(batches)]
        return sum(losses) / batches

    def write(self, folder: Path) -> None:
        save_model(self.average, folder / FILE)

    def read(self, folder: Path) -> dict[str, torch.Tensor]:
        return load_file(folder / FILE)
