"""What training leaves to look at: the loss curve and a contact sheet of prompts."""

from __future__ import annotations

import json
from pathlib import Path

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


def draw_loss_curve(weights: Path, path: Path) -> None:
    """The training loss and the held-out loss of the averaged weights over the steps, from dit/training.json."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curve = json.loads((weights / "dit" / "training.json").read_text())["curve"]
    figure, axes = pyplot.subplots(figsize=(7, 3.5))
    for key, label in (("loss", "training, mean of 50 steps"), ("held_out", "held-out clips, averaged weights")):
        points = [(p["step"], p[key]) for p in curve if key in p]
        axes.plot(*zip(*points, strict=True), label=label, marker="o" if key == "held_out" else None, markersize=3)
    axes.set(xlabel="step", ylabel="squared error of the velocity", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


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
    draw_loss_curve(weights, weights / "loss_curve.png")
    draw_contact_sheet(weights, weights / "contact_sheet.png", physics)
