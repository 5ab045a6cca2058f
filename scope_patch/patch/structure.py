"""What a model computes with beside the numbers in its tensors: modules, which tensors they hold, plain attributes.

Adapters change it (LoRA): they come and go as modules, are switched by lists of names, and scaled by numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

Structure = tuple[tuple[str, type, tuple[int, ...], str], ...]


def structure(model: nn.Module, without: str) -> Structure:
    """Compares equal as long as nothing of it changes. Tensors count by identity: their numbers may change.

    Args:
        without: a submodule that is left out (the blocks: nearly all of the model, and of no account before them).
    """
    return tuple(_each(model, without))


def _each(module: nn.Module, without: str = "", path: str = "") -> Iterator[tuple[str, type, tuple[int, ...], str]]:
    tensors = (*module._parameters.values(), *module._buffers.values())
    plain = {name: value for name, value in vars(module).items() if _plain(value)}
    yield path, type(module), tuple(map(id, tensors)), repr(plain)
    for name, child in module._modules.items():
        if child is not None and name != without:
            yield from _each(child, path=f"{path}.{name}")


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_plain(key) and _plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
