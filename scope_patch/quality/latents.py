"""Latents from a file of tensors, read so that nothing in the file is ever run."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .extras import extra

ENDINGS = (".pt", ".pth", ".safetensors")
_ZIP = b"PK\x03\x04"  # what torch.save has written since 1.6 begins so


def from_file(path: Path) -> Tensor:
    """The one tensor of floats in the file (or the one named `latents`), on the CPU. Raises UsageError."""
    held = _safetensors(path) if path.suffix.lower() == ".safetensors" else _pt(path)
    found = _the_one(held, path)
    if not found.is_floating_point() or found.layout != torch.strided or not found.numel():
        kind = f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
        raise UsageError(f"{path} holds {kind}, which is no latents: a dense tensor of floats is wanted")
    return found.detach()


def _pt(path: Path) -> Any:
    """What torch.save wrote, by torch's own unpickler for tensors and plain containers."""
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            # The older formats went through weights_only with full pickle rights up to torch 2.5 (CVE-2025-32434).
            raise UsageError(f"{path} is not in the format that torch.save has written since 1.6: save it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch surrounds the name with advice on reading without protection: only the name is passed on.
        name = re.search(r"GLOBAL (\S+)", str(error))
        more = f" ({name[1]})" if name else ""
        raise UsageError(
            f"{path} was refused: it holds more than tensors{more}, and reading that can run any code; "
            "save the tensor alone: torch.save(latents.detach().cpu(), path)"
        ) from error
    except Exception as error:  # a cut or damaged archive: RuntimeError, EOFError, KeyError, ...
        raise _damaged(path, error) from error


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    library = extra("safetensors.torch", "safetensors")
    try:
        held: Mapping[str, Tensor] = library.load_file(path, device="cpu")
    except Exception as error:  # SafetensorError, and whatever a header that lies leads to
        raise _damaged(path, error) from error
    return held


def _the_one(held: Any, path: Path) -> Tensor:
    if isinstance(held, Tensor):
        return held
    tensors = {}
    if isinstance(held, Mapping):
        tensors = {str(name): value for name, value in held.items() if isinstance(value, Tensor)}
    if "latents" in tensors:
        return tensors["latents"]
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    inside = f"{len(tensors)} tensors ({', '.join(sorted(tensors)[:8])})" if tensors else type(held).__name__
    raise UsageError(f"{path} holds {inside}; wanted is one tensor, or one of several named `latents`")


def _damaged(path: Path, error: Exception) -> UsageError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UsageError(f"{path} cannot be read ({said[:200]}); it is damaged or incomplete: write it again")
