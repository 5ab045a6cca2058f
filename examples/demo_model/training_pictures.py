"""What training leaves to look at: the loss curve and a contact sheet of prompts."""

from __future__ import annotations

import json
from pathlib import Path

from training import draw_loss_curve

from .pictures import contact_sheet
from .pipeline import build_pipeline, decode, sample

PROMPTS = (
    "a red disc and a blue square",
    "a big green ring moving right",
    "a small yellow triangle moving up and a white disc moving left",
    "a magenta square",
    "a blue ring and a yellow disc moving down",
    "a white triangle",
)


def draw_contact_sheet(weights: Path, path: Path) -> None:
    """One 97-frame video a prompt, and one of 177 frames."""
    pipe = build_pipeline(weights)
    pipe.set_progress_bar_config(disable=True)
    lengths = [(prompt, 97) for prompt in PROMPTS] + [(PROMPTS[0], 177)]
    rows = []
    for seed, (prompt, num_frames) in enumerate(lengths):
        latents = sample(pipe, prompt, num_frames=num_frames, seed=seed)
        rows.append((f"{prompt} ({num_frames} frames)", decode(pipe, latents)[0]))
    contact_sheet(rows).save(path, optimize=True)


def draw_all(weights: Path) -> None:
    curve = json.loads((weights / "dit" / "training.json").read_text())["curve"]
    draw_loss_curve(curve, weights / "loss_curve.png")
    draw_contact_sheet(weights, weights / "contact_sheet.png")
