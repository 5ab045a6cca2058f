"""Train the video autoencoder on drawn clips."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .clips import Draw
from .vae import DemoVAE


def batch_of_clips(draw: Draw, first_seed: int, count: int, num_frames: int) -> torch.Tensor:
    """[count, 3, num_frames, 64, 64] in [-1, 1]; each clip begins at a random frame of its own."""
    starts = [(seed, 0 if seed % 2 else seed * 7919 % 120) for seed in range(first_seed, first_seed + count)]
    return torch.stack([draw(seed, num_frames, start)[1] for seed, start in starts])


def psnr(video: torch.Tensor, reference: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two videos in [-1, 1]."""
    error = ((video.clamp(-1, 1) - reference) / 2).square().mean()
    return float(-10 * torch.log10(error))


def train_vae(
    steps: int, draw: Draw, log=print, batch: int = 10, num_frames: int = 9, seed: int = 0, held_out: int = 64
) -> DemoVAE:
    """Train for a number of steps on what `draw` draws; the code is whitened per channel and noised before decoding.

    Its mean and spread a channel are those of twice `held_out` clips, which it was not trained on.
    """
    torch.manual_seed(seed)
    vae = DemoVAE()
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=0.01)
    mean, var = torch.zeros(16), torch.ones(16)
    average = None
    for step in range(steps):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100, 2.0 * (1 - done) + 0.01)
        video = batch_of_clips(draw, 10_000_000 + step * batch, batch, num_frames)
        code = vae.encode_mean(video)
        m, v = code.mean((0, 2, 3, 4)), code.var((0, 2, 3, 4))
        mean = torch.lerp(mean, m.detach(), 0.02 if step > 50 else 0.5)
        var = torch.lerp(var, v.detach(), 0.02 if step > 50 else 0.5)
        # Noise in proportion to each channel's spread: a fixed rate a channel, so that no channel collapses.
        noise = vae.config.noise_std * v.sqrt().view(1, -1, 1, 1, 1) * torch.randn_like(code)
        out = vae.decode(code + noise, return_dict=False)[0]
        # Scale and offset are free; a weak pull keeps the codes near unit size for the optimizer's sake.
        loss = F.mse_loss(out, video) + 0.02 * F.l1_loss(out, video) + 1e-4 * (m.square() + v.log().square()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        if step % 50 == 0:
            log(f"vae step {step} loss {average:.5f} psnr {psnr(out.detach(), video):.2f} dB {done:.0%}")
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        seen = (batch_of_clips(draw, 20_000_000 + 8 * i, 8, 49) for i in range(held_out // 4))
        codes = torch.cat([vae.encode_mean(clips) for clips in seen])
        vae.register_to_config(
            latents_mean=codes.mean((0, 2, 3, 4)).tolist(), latents_std=codes.std((0, 2, 3, 4)).tolist()
        )
        unseen = batch_of_clips(draw, 30_000_000, held_out // 4, 49)
        out = vae.decode(vae.encode_mean(unseen), return_dict=False)[0]
    log(f"vae done: {steps} steps, held-out psnr {psnr(out, unseen):.2f} dB")
    return vae
