"""What runs are compared with: videos of the unpatched host, kept in files."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reference:
    """A video, uint8 [F, H, W, 3]; what it cost; what is wrong with it by itself (see compare.metrics.failures)."""

    video: Tensor
    seconds: float
    cpu: float
    flops: int
    forwards: int
    frames: int
    failures: dict[str, str]


def save(reference: Reference, path: Path) -> None:
    """Whole or not at all: an interruption leaves no half file under this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    torch.save(asdict(reference), part)
    part.replace(path)


def load(path: Path) -> Reference | None:
    """The reference; None where there is none or the file is none. Nothing in the file is run."""
    try:
        held: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return Reference(**{field.name: held[field.name] for field in fields(Reference)})
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        return None
