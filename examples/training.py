"""What the trainings of the small models share: optimizers, averaged weights, the schedule, the curve, resuming."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import nn


class Trainer:
    """Model, averaged model, optimizers and random numbers: everything that a checkpoint has to hold.

    A subclass says what a batch's loss is, how it is measured on clips that were held out, and how weights are kept.

    Args:
        average: another model of the same class, for the averaged weights.
        blocks: the part of `model` whose matrices Muon has; AdamW has the rest.
    """

    def __init__(self, model: nn.Module, average: nn.Module, blocks: nn.Module, seed: int = 0):
        self.model, self.average = model, average.requires_grad_(False)
        self.constrain()
        average.load_state_dict(model.state_dict())
        self.rng = torch.Generator().manual_seed(seed)
        matrices = [p for p in blocks.parameters() if p.ndim == 2]
        chosen = set(map(id, matrices))
        others = [p for p in model.parameters() if id(p) not in chosen]
        self.muon = torch.optim.Muon(matrices, lr=1.0, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)
        self.step, self.curve = 0, []

    def batch_loss(self, progress: float) -> torch.Tensor:
        """The loss of a new batch at a point of the training, 0 to 1."""
        raise NotImplementedError

    def validate(self) -> float:
        """Loss of the averaged model on clips it was not trained on: always the same batches."""
        raise NotImplementedError

    def write(self, folder: Path) -> None:
        """The averaged weights in half precision, for use."""
        raise NotImplementedError

    def constrain(self) -> None:
        """What must hold of the weights after every step."""

    def train_step(self, progress: float, muon_lr: float, adamw_lr: float) -> float:
        """One step; the rates are flat, then fall linearly."""
        rate = min(1.0, (self.step + 1) / 60, max(0.0, 2 * (1 - progress)))
        for optimizer, lr in ((self.muon, muon_lr), (self.adamw, adamw_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
        loss = self.batch_loss(progress)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in (self.muon, self.adamw):
            optimizer.step()
            optimizer.zero_grad()
        self.constrain()
        decay = min(0.998, 1 - 1 / (self.step + 1))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        self.step += 1
        return loss.item()

    def save(self, weights: Path, state: Path) -> None:
        """Averaged weights and the curve for use, and everything else for resuming."""
        weights.mkdir(parents=True, exist_ok=True)
        state.parent.mkdir(parents=True, exist_ok=True)
        self.write(weights)
        (weights / "training.json").write_text(json.dumps({"step": self.step, "curve": self.curve}))
        parts = {name: getattr(self, name).state_dict() for name in ("model", "average", "muon", "adamw")}
        torch.save({**parts, "rng": self.rng.get_state(), "step": self.step, "curve": self.curve}, state)

    def read(self, folder: Path) -> dict[str, torch.Tensor]:
        """The weights that `write` kept, by name."""
        raise NotImplementedError

    def resume(self, state: Path, weights: Path) -> None:
        """Go on from the state; where that was not kept, from the weights, optimizers and random numbers begun anew."""
        if not state.is_file():
            read = self.read(weights)
            self.model.load_state_dict(read)
            self.average.load_state_dict(read)
            kept = json.loads((weights / "training.json").read_text())
            self.step, self.curve = kept["step"], kept["curve"]
            self.rng.manual_seed(self.step)
            return
        saved = torch.load(state, weights_only=True)
        for name in ("model", "average", "muon", "adamw"):
            getattr(self, name).load_state_dict(saved[name])
        self.rng.set_state(saved["rng"])
        self.step, self.curve = saved["step"], saved["curve"]


def train(
    trainer: Trainer, weights: Path, state: Path, steps: int, minutes: float | None = None, muon_lr: float = 8e-3,
    adamw_lr: float = 2e-3, log=print,
) -> None:  # fmt: skip
    """Train for a number of steps, or until the minutes are over: the schedule follows whichever is further on.

    Saved every two minutes; a point of the curve every 50 steps, with held-out clips every 250 and at the end.
    """
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
                point["held_out"] = round(trainer.validate(), 5)
            trainer.curve.append(point)
            log(f"dit {point} {(time.time() - begin) / (trainer.step - first):.3f} s a step")
            total, count = 0.0, 0
        if time.time() - saved > 120:
            trainer.save(weights, state)
            saved = time.time()
    trainer.curve.append({"step": trainer.step, "progress": 1.0, "held_out": round(trainer.validate(), 5)})
    trainer.save(weights, state)
    log(f"dit done: {trainer.curve[-1]}")


def draw_loss_curve(curve: list[dict], path: Path) -> None:
    """The training loss and the held-out loss of the averaged weights over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5))
    for key, label in (("loss", "training, mean of 50 steps"), ("held_out", "held-out clips, averaged weights")):
        points = [(p["step"], p[key]) for p in curve if key in p]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if key == "held_out" else None, markersize=3)
    axes.set(xlabel="step", ylabel="squared error of the velocity", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
