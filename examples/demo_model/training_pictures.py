"""What training leaves to look at: the loss curve and a contact sheet of prompts."""

from __future__ import annotations

import json
from pathlib import Path

from training import draw_loss_curve

from .pictures import contact_sheet
from .pipeline import build_pipeline, decode, sample
from .text import SHAPES

PROMPTS = (
    "a red disc and a blue square",
    "a big green ring moving right",
    "a small yellow triangle moving up and a white disc moving left",
    "a magenta square",
    "a blue ring and a yellow disc moving down",
    "a white triangle",
)
SCENES = (
    "a red ball bounces, on grass by day",
    "a yellow pendulum swings, on tiles by day moving left",
    "a white box tumbles and a red wheel rolls, on sand by day moving right",
    "a blue ball rolls and a white pendulum swings, on grass by night",
    "a yellow wheel rolls and a blue box slides, on tiles by day",
    "a red pendulum swings and a yellow ball bounces, on sand by night moving left",
)


def draw_contact_sheet(weights: Path, path: Path, physics: bool) -> None:
    """One 97-frame video a prompt, and one of 177 frames; those of the physics model with all latent frames in step."""
    from physics.words import KNOWN

    pipe = build_pipeline(weights, known=KNOWN if physics else SHAPES, masked=not physics)
    pipe.set_progress_bar_config(disable=True)
    prompts, options = (SCENES, {"ar_step": 0}) if physics else (PROMPTS, {})
    lengths = [(prompt, 97) for prompt in prompts] + [(prompts[0], 177)]
    rows = []
    for seed, (prompt, num_frames) in enumerate(lengths):
        latents = sample(pipe, prompt, num_frames=num_frames, seed=seed, **options)
        rows.append((f"{prompt} ({num_frames} frames)", decode(pipe, latents)[0]))
    contact_sheet(rows).save(path, optimize=True)


def draw_all(weights: Path, physics: bool) -> None:
    curve = json.loads((weights / "dit" / "training.json").read_text())["curve"]
    draw_loss_curve(curve, weights / "loss_curve.png")
    draw_contact_sheet(weights, weights / "contact_sheet.png", physics)
