"""Train the DiT by flow matching with one noise level a block; Muon on the block matrices, AdamW on the rest.

The blocks' matrix products are in bfloat16, weights and sums in float32: a CPU with tiles for it takes half the time.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

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


class Trainer:
    """Model, averaged model, optimizers and random numbers: everything that a checkpoint has to hold."""

    def __init__(
        self,
        data: dict,
        shortest_wave: float = SHORTEST_WAVE,
        seed: int = 0,
        compiled: bool = True,
        attention: Attention = BLOCK_CAUSAL,
    ):
        torch.manual_seed(seed)
        self.data, self.shortest_wave, self.rng = data, shortest_wave, torch.Generator().manual_seed(seed)
        self.attention = attention
        self.dit, self.ema = build_dit(), build_dit().requires_grad_(False)
        torch.nn.init.zeros_(self.dit.proj_out.weight)
        low_pass_(self.dit, shortest_wave)
        self.ema.load_state_dict(self.dit.state_dict())
        matrices = [p for p in self.dit.blocks.parameters() if p.ndim == 2]
        chosen = set(map(id, matrices))
        others = [p for p in self.dit.parameters() if id(p) not in chosen]
        self.muon = torch.optim.Muon(matrices, lr=1.0, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)
        self.step, self.curve = 0, []
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
        rope = rope_tables(self.dit, x)
        noised = torch.lerp(x, noise, level.expand_as(x))
        out = (forward or self.forward)(model or self.dit, noised, sigma * 1000, text, mask, rope)
        error = (out - (noise - x)).square().mean(dim=(1, 3, 4))
        return (error * weight).sum() / weight.sum()

    def train_step(self, progress: float, muon_lr: float, adamw_lr: float) -> float:
        """One step at a point of the training, 0 to 1; the rates are flat, then fall linearly."""
        frames, size = SHORT if progress < 0.5 else LONG
        rate = min(1.0, (self.step + 1) / 60, max(0.0, 2 * (1 - progress)))
        for optimizer, lr in ((self.muon, muon_lr), (self.adamw, adamw_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
        batch = self.batch(frames, size, self.data, self.rng)
        unmasked = torch.rand((), generator=self.rng) < self.attention.unmasked
        loss = self.loss(batch, None if unmasked else BLOCK)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.dit.parameters(), 1.0)
        self.muon.step()
        self.adamw.step()
        self.muon.zero_grad()
        self.adamw.zero_grad()
        low_pass_(self.dit, self.shortest_wave)
        decay = min(0.998, 1 - 1 / (self.step + 1))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.dit.parameters()), 1 - decay)
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def validate(self, data: dict, batches: int = 6) -> float:
        """Loss of the averaged model on clips it was not trained on: always the same windows, levels and noise."""
        rng = torch.Generator().manual_seed(12345)
        forward = partial(fast_forward, half=True)
        block = None if self.attention.unmasked == 1 else BLOCK
        losses = [self.loss(self.batch(*LONG, data, rng), block, self.ema, forward).item() for _ in range(batches)]
        return sum(losses) / batches

    def save(self, weights: Path, state: Path) -> None:
        """Averaged weights in half precision for use, and everything else for resuming."""
        half = build_dit()
        half.load_state_dict(self.ema.state_dict())
        half.half().save_pretrained(weights)
        (weights / "training.json").write_text(json.dumps({"step": self.step, "curve": self.curve}))
        parts = {name: getattr(self, name).state_dict() for name in ("dit", "ema", "muon", "adamw")}
        torch.save({**parts, "rng": self.rng.get_state(), "step": self.step, "curve": self.curve}, state)

    def resume(self, state: Path) -> None:
        saved = torch.load(state, weights_only=True)
        for name in ("dit", "ema", "muon", "adamw"):
            getattr(self, name).load_state_dict(saved[name])
        self.rng.set_state(saved["rng"])
        self.step, self.curve = saved["step"], saved["curve"]


def train_dit(
    trainer: Trainer, held_out: dict, weights: Path, state: Path, steps: int, minutes: float | None = None,
    muon_lr: float = 8e-3, adamw_lr: float = 2e-3, log=print,
) -> None:  # fmt: skip
    """Train for a number of steps, or until the minutes are over: the schedule follows whichever is further on."""
    begin, first, saved, total, count = time.time(), trainer.step, time.time(), 0.0, 0
    start = first / steps
    while True:
        elapsed = (time.time() - begin) / (60 * minutes) if minutes else 0.0
        progress = max(trainer.step / steps, start + (1 - start) * elapsed)
        if progress >= 1:
            break
        total, count = total + trainer.train_step(progress, muon_lr, adamw_lr), count + 1
        if trainer.step % 50 == 0:
            point = {"step": trainer.step, "progress": round(progress, 4), "loss": round(total / count, 5)}
            if trainer.step % 250 == 0:
                point["held_out"] = round(trainer.validate(held_out), 5)
            trainer.curve.append(point)
            log(f"dit {point} {(time.time() - begin) / (trainer.step - first):.3f} s a step")
            total, count = 0.0, 0
        if time.time() - saved > 120:
            trainer.save(weights, state)
            saved = time.time()
    trainer.curve.append({"step": trainer.step, "progress": 1.0, "held_out": round(trainer.validate(held_out), 5)})
    trainer.save(weights, state)
    log(f"dit done: {trainer.curve[-1]}")
