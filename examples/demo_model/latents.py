"""The training set: latents and prompt embeddings of procedural clips, kept outside the repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from .clips import Draw
from .vae import DemoVAE

LATENT_FRAMES = 29  # four more than a segment, so that windows can begin inside a clip


def normalise(vae: DemoVAE, code: torch.Tensor) -> torch.Tensor:
    """VAE codes [B, C, F, h, w] to latents of mean 0 and standard deviation 1 a channel, as the pipeline has them."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    return (code - mean) / std


@torch.no_grad()
def build_latents(
    vae: DemoVAE,
    latent_frames: int,
    draw: Draw,
    encode: Callable[[list[str]], torch.Tensor],
    path: Path,
    count: int,
    first_seed: int = 0,
    log=print,
) -> dict[str, torch.Tensor]:
    """Draw and encode `count` clips; {"latents": [count, 16, F, 8, 8] half, "text": [count, 16, 64] half}."""
    latents, prompts = [], []
    for begin in range(0, count, 16):
        numbers = range(first_seed + begin, first_seed + min(begin + 16, count))
        clips = [draw(number, 4 * latent_frames - 3, 0) for number in numbers]
        latents.append(normalise(vae, vae.encode_mean(torch.stack([video for _, video in clips]))).half())
        prompts += [prompt for prompt, _ in clips]
        if begin % 1024 == 0:
            log(f"latents of {begin} of {count} clips")
    data = {"latents": torch.cat(latents), "text": encode(prompts).half()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(data, path)
    return data
