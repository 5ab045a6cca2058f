"""What training leaves to look at: the loss curve and a contact sheet of prompts."""

from __future__ import annotations

import json
from pathlib import Path

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
    draw_loss_curve(weights, weights / "loss_curve.png")
    draw_contact_sheet(weights, weights / "contact_sheet.png")
