"""Run the small MAGI-1 in the unmodified official loop, from a clone (see magi_cpu/host.py)."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from magi_cpu import host

from .model import Sizes
from .train_dit import FILE

WEIGHTS = Path(__file__).resolve().parent / "weights"
DEFAULTS = host.Options(num_frames=96, steps=64, cfg=3, text_scale=4.0, sizes=asdict(Sizes()))
"""Upstream's 4.5B base configuration, but that it guides by the text at 7.5, which doubles the bodies of this model."""


def load(weights: Path = WEIGHTS, clone: Path | None = None) -> torch.nn.Module:
    """Upstream's VideoDiTModel with the trained weights, in float32.

    Exits with a sentence where there is no clone, or are no weights.
    """
    if not (weights / FILE).exists():
        sys.exit(f"no weights in {weights}: python examples/train_magi.py trains them")
    host.prepare(clone)
    model = host.build(DEFAULTS, clone)
    model.load_state_dict(load_file(weights / FILE))
    return model.eval().requires_grad_(False)


def draw_contact_sheet(weights: Path, vae: Path, path: Path, cfg: int = 3) -> None:
    """One video a prompt of the physics model's sheet; `cfg`: 1 for a distilled model."""
    from demo_model import pipeline
    from demo_model.pictures import contact_sheet
    from demo_model.training_pictures import SCENES

    model, decoder = load(weights), pipeline.load_vae(vae)
    films = [(prompt, sample(model, prompt, seed=seed, cfg=cfg)) for seed, prompt in enumerate(SCENES)]
    contact_sheet([(prompt, pipeline.frames(decoder, film)[0]) for prompt, film in films]).save(path, optimize=True)


def sample(model: torch.nn.Module, prompt: str, num_frames: int = 96, seed: int = 0, **options) -> torch.Tensor:
    """Latents [1, 16, num_frames / 4, 8, 8] of a prompt, through `generate_per_chunk`.

    The autoencoder (physics/weights/vae) makes one frame of the first and four of every other.
    `options` are fields of magi_cpu.host.Options: steps, cfg (3 with guidance, 1 without), window, prefix_frames.
    """
    from physics.words import encode

    asked = replace(DEFAULTS, num_frames=num_frames, seed=seed, **options)
    host.reconfigure(model, asked)
    model.engine_config.distill = False  # without guidance upstream's configuration is that of a distilled model
    text = encode([prompt])
    caption = torch.zeros(1, 1, model.model_config.caption_max_length, text.shape[-1])
    caption[0, 0, : text.shape[1]] = text
    mask = torch.zeros(1, caption.shape[2], dtype=torch.int64)
    mask[:, : max(1, int((text != 0).any(dim=-1).sum()))] = 1
    return host.generate(model, asked, [(caption, mask, None)])
