"""Single tensors out of a checkpoint's safetensors files: a few megabytes of many gigabytes are read."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UsageError

DIFFUSERS_FOLDER = "transformer"
"""Where a diffusers pipeline keeps its DiT."""


@dataclass(frozen=True)
class Checkpoint:
    """Attributes: given, the option as it was given; folder; files, by the name of every tensor in them."""

    given: str
    folder: Path
    files: dict[str, Path]

    @classmethod
    def find(cls, given: str, folders: Sequence[str] = (DIFFUSERS_FOLDER,)) -> Checkpoint:
        """The checkpoint in a folder, in the first of these folders below it that has one, or in one file.

        Raises UsageError where there is none, or a file is not whole.
        """
        path = Path(given).expanduser()
        if path.is_file():
            return cls(given, path.parent, dict.fromkeys(_names(path), path))
        if not path.is_dir():
            raise UsageError(f"--weights {given}: there is no such folder or file")
        for folder in (path, *(path / name for name in folders)):
            indices, files = (sorted(folder.glob(f"*.safetensors{end}")) for end in (".index.json", ""))
            if indices:
                return cls(given, folder, _shards(min(indices, key=lambda each: len(each.name))))
            if files:
                return cls(given, folder, {name: file for file in reversed(files) for name in _names(file)})
        raise UsageError(
            f"--weights {given}: no *.safetensors file there, nor in {' or '.join(folders)} below it; give the folder "
            "of the DiT's weights (.bin, .pt and .pth files are not read)"
        )

    @property
    def config(self) -> dict[str, Any] | None:
        """config.json beside the files, if there is one. Raises UsageError where it is not JSON."""
        path = self.folder / "config.json"
        return _json(path) if path.is_file() else None

    def read(self, names: Collection[str], purpose: str) -> dict[str, Tensor]:
        """Tensors by name, in the dtypes of the files.

        Raises UsageError naming those that are missing or no floating-point numbers; `purpose` says what for.
        """
        missing = [name for name in names if name not in self.files]
        if missing:
            raise UsageError(
                f"--weights {self.given} does not hold {', '.join(missing)}, which {purpose} is made with; is it the "
                f"folder of this model's DiT?"
            )
        read: dict[str, Tensor] = {}
        for path in dict.fromkeys(self.files[name] for name in names):
            with _opened(path) as file:
                read.update({name: file.get_tensor(name) for name in names if self.files[name] == path})
        numbers = [name for name, tensor in read.items() if not tensor.is_floating_point()]
        if numbers:
            raise UsageError(
                f"--weights {self.given}: {numbers[0]} is quantised ({read[numbers[0]].dtype}); give the folder of the "
                "weights that it was made from"
            )
        return read


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def _shards(index: Path) -> dict[str, Path]:
    try:
        return {str(name): index.parent / file for name, file in _json(index)["weight_map"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--weights: {index} is no index of safetensors files: {error!r} is missing or wrong"
        ) from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--weights: {path} cannot be read: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file whose tensors are read when they are asked for."""
    try:
        import safetensors
    except ImportError as error:
        raise UsageError("--weights needs the package safetensors: pip install safetensors") from error
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise UsageError(f"--weights: {path} is not there; is the download complete?") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise UsageError(
            f"--weights: {path} is no whole safetensors file ({error}); is the download complete?"
        ) from error
