"""Train the autoencoder, then the transformer: upstream's classes, bits as labels, self-correction, one core."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from . import upstream
from .autoencoder import Autoencoder
from .model import fill
from .pictures import caption, embed, pictures

FLIPPED = 0.3  # of the bits, at the most: upstream's noise_apply_strength
VAE_BATCH, BATCH = 32, 16
BLOCKED = "block_chunks"
AVERAGED = 0.98  # a step: the weights that are kept are those of the last fifty steps or so
STAGES = ((0.35, -2), (0.65, -1))
"""Until when the finest scales are left out: the last one is more than half of the work, that before it a quarter."""


class Clock:
    """How far a training is that ends after so many minutes of CPU time, or at the latest after so many of any.

    Args:
        first: how far it was when it began.
    """

    def __init__(self, minutes: float, at_the_latest: float = math.inf, first: float = 0.0):
        self.first = first
        self.begin, self.minutes = (time.process_time(), time.monotonic()), (minutes, at_the_latest)

    @property
    def progress(self) -> float:
        spent = (time.process_time(), time.monotonic())
        parts = ((now - then) / (60 * most) for now, then, most in zip(spent, self.begin, self.minutes, strict=True))
        return self.first + (1 - self.first) * max(parts)


def rate(step: int, progress: float) -> float:
    """Of the learning rate: a warm-up, flat, then falling linearly in the second half."""
    return min(1.0, (step + 1) / 60, max(0.0, 2 * (1 - progress)))


def halved(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters in half precision; buffers are constants of the class."""
    return {name: p.detach().half().contiguous() for name, p in module.named_parameters()}


def train_autoencoder(minutes: float, images: torch.Tensor, folder: Path, log=print) -> Autoencoder:
    """`images`: uint8, [N, 3, 64, 64]. Straight through the residual coding of all scales."""
    torch.manual_seed(0)
    vae, schedule = Autoencoder(), upstream.schedule()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01)
    clock, step = Clock(minutes), 0
    while (done := clock.progress) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * rate(step, done)
        image = images[torch.randint(len(images), (VAE_BATCH,))].float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            code = vae.encode(image).float()
            _, _, summed = vae.bits(code, schedule)
            out = vae.decoder(code + (summed - code).detach()).float()
        loss = F.mse_loss(out, image) + 0.02 * F.l1_loss(out, image) + 0.05 * F.mse_loss(code, summed)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            log(f"autoencoder step {step}, {done:.0%}: {psnr(out.detach(), image):.2f} dB, code {code.std():.2f}")
        step += 1
    vae.eval().requires_grad_(False)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halved(vae), folder / "autoencoder.safetensors")
    held_out = pictures(range(30_000_000, 30_000_064))[0]
    again = vae.decode(vae.bits(vae.encode(held_out), schedule)[2])
    log(f"autoencoder done: {step} steps, held out {psnr(again, held_out):.2f} dB")
    return vae


def psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    """In dB, of images in [-1, 1]."""
    return float(-10 * torch.log10(((image.clamp(-1, 1) - reference) / 2).square().mean()))


def quick_attention(schedule):
    """Stand-ins, while we train, for the attention kernels under self- and cross-attention: plain matrix products.

    On a CPU, backward through the kernels takes most of a step. Tokens see their own scale and coarser ones: the two
    finest attend to what they see, the others share a mask.
    """
    sizes = [h * w for _, h, w in schedule]
    every = [sum(sizes[:-2]), sum(sizes[:-1]), sum(sizes)]

    def attend(query, key, value, mask=None):
        seen = (query @ key.transpose(-1, -2)).float()
        return (seen if mask is None else seen + mask).softmax(-1).to(value.dtype) @ value

    def self_attention(query, key, value, scale, attn_mask=None, dropout_p=0.0):
        query, key, value = (x.to(torch.bfloat16) for x in (query * scale, key, value))
        parts, ends = [], [end for end in every if end <= query.shape[2]]
        for start, end in zip([0, *ends], ends, strict=False):
            mask = None if start else attn_mask[..., :end, :end]
            parts.append(attend(query[:, :, start:end], key[:, :, :end], value[:, :, :end], mask))
        return torch.cat(parts, 2)

    def cross_attention(q, kv, cu_seqlens_k, softmax_scale, **_):
        """q (rows Lq, heads, c), kv (rows Lk, 2, heads, c): captions are all of one length."""
        rows = len(cu_seqlens_k) - 1
        key, value = kv.unflatten(0, (rows, -1)).unbind(2)
        query = q.unflatten(0, (rows, -1)) * softmax_scale
        return attend(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2).flatten(0, 1)

    return self_attention, cross_attention


class Trainer:
    """The transformer, its average and its optimizers."""

    def __init__(self, vae: Autoencoder, codes: torch.Tensor, text: torch.Tensor):
        torch.manual_seed(0)
        self.vae, self.codes, self.text, self.schedule = vae, codes, text, upstream.schedule()
        self.model, self.average = upstream.build(vae), upstream.build(vae).requires_grad_(False).eval()
        self.average.cond_drop_rate = 0.0
        with torch.no_grad():
            for block in self.model.unregistered_blocks:
                block.ada_gss.mul_(0.1)
            self.model.shared_ada_lin[1].weight.mul_(0.1)
            self.model.head_nm.ada_lin[1].weight.mul_(0.1)
        self.average.load_state_dict(self.model.state_dict())
        for _, count in STAGES:  # positions of the first scales, where the last ones are left out
            for grids in (self.model.rope2d_freqs_grid, self.average.rope2d_freqs_grid):
                grids[str(tuple(self.schedule[:count]))] = grids[str(tuple(self.schedule))]
        matrices = [p for name, p in self.model.named_parameters() if name.startswith(BLOCKED) and p.ndim == 2]
        chosen = set(map(id, matrices))
        self.muon = torch.optim.Muon(matrices, lr=1.0, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        others = [p for p in self.model.parameters() if id(p) not in chosen]
        self.adamw = torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)
        # Every scale weighs as its side, not as its tokens: the finest would drown the coarsest.
        weights = torch.cat([torch.full((h * w,), (h * w) ** -0.5) for _, h, w in self.schedule])
        self.weights = weights / weights.sum()

    def loss(
        self, model, codes: torch.Tensor, text: torch.Tensor, flipped: float, scales: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss to be minimised, [tokens] mean cross-entropy of a bit)."""
        labels, inputs, _ = self.vae.bits(codes, self.schedule, torch.rand(len(codes)) * flipped)
        schedule = self.schedule[:scales]
        labels, inputs = labels[: len(schedule)], inputs[: len(schedule) - 1]
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(caption(text), torch.cat(inputs, 1), schedule).float()
        bits = torch.cat(labels, 1)
        nats = F.cross_entropy(logits.unflatten(-1, (-1, 2)).permute(0, 3, 1, 2), bits.long(), reduction="none")
        nats = nats.mean(-1).mean(0)
        weights = self.weights[: len(nats)]
        return (nats * weights).sum() / weights.sum(), nats.detach()

    def step(self, step: int, progress: float) -> torch.Tensor:
        for optimizer, lr in ((self.muon, 8e-3), (self.adamw, 2e-3)):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate(step, progress)
        chosen = torch.randint(len(self.codes), (BATCH,))
        scales = next((count for until, count in STAGES if progress < until), None)
        loss, nats = self.loss(self.model, self.codes[chosen].float(), self.text[chosen].float(), FLIPPED, scales)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in (self.muon, self.adamw):
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            decay = min(AVERAGED, 1 - 1 / (step + 1))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return nats

    def by_scale(self, nats: torch.Tensor) -> list[float]:
        """Cross-entropy of a bit, in bits, for each scale."""
        sizes, out = [h * w for _, h, w in self.schedule], []
        for k, size in enumerate(sizes):
            part = nats[sum(sizes[:k]) :][:size]
            out += [round(float(part.mean()) / 0.6931, 3)] if len(part) else []
        return out

    @torch.no_grad()
    def validate(self, codes: torch.Tensor, text: torch.Tensor) -> list[float]:
        return self.by_scale(self.loss(self.average, codes.float(), text.float(), 0.0)[1])


def train_transformer(
    clock: Clock, vae: Autoencoder, images: torch.Tensor, text: torch.Tensor, folder: Path, log=print
):
    """`images` as above, `text` [N, tokens, width]. Saved now and then, so that it can be used while it trains."""
    with torch.no_grad():
        codes = torch.cat([vae.encode(part.float() / 127.5 - 1).half() for part in images.split(256)])
        held, prompts = pictures(range(30_000_000, 30_000_064))
        held_codes, held_text = vae.encode(held), embed(prompts)
    from infinity.models import basic

    basic.slow_attn, basic.flash_attn_varlen_kvpacked_func = quick_attention(upstream.schedule())
    trainer, curve, step, saved = Trainer(vae, codes, text), [], 0, clock.first
    if clock.first:
        for each in (trainer.model, trainer.average):
            fill(each, folder / "transformer.safetensors")
        trainer.model.train().requires_grad_(True)
    while (done := clock.progress) < 1:
        nats = trainer.step(step, done)
        step += 1
        if step % 100 == 0:
            point = {"step": step, "progress": round(done, 4), "train": trainer.by_scale(nats)}
            if step % 500 == 0:
                point["held_out"] = trainer.validate(held_codes, held_text)
            curve.append(point)
            log(f"transformer {point}, {time.process_time():.0f} s of CPU time")
        if done - saved > 0.1:
            saved = done
            save_file(halved(trainer.average), folder / "transformer.safetensors")
    curve.append({"step": step, "progress": 1.0, "held_out": trainer.validate(held_codes, held_text)})
    save_file(halved(trainer.average), folder / "transformer.safetensors")
    (folder / "training.json").write_text(json.dumps({"scales": len(trainer.schedule), "curve": curve}))
    log(f"transformer done: {curve[-1]}")
