"""What a call of the DiT is conditioned on, by place and version: whether it is as before, without a look at values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .host import Dit

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
DEEPEST = 4
"""Containers within containers that are looked into."""

Mark = tuple[Any, ...]


@dataclass(frozen=True)
class Conditioning:
    """Attributes:
    marks: by argument, where its tensors lie and how often they were written to.
    held: those tensors, so that their places stay their own.
    """

    marks: Mapping[str, tuple[Mark, ...]]
    held: tuple[Any, ...] = ()

    def differs(self, other: Conditioning) -> set[str]:
        """The arguments that are not as in the other one."""
        names = self.marks.keys() | other.marks.keys()
        return {name for name in names if self.marks.get(name) != other.marks.get(name)}


def conditioning(arguments: Mapping[str, Any], dit: Dit) -> Conditioning:
    """What a call with these arguments, by parameter name, is conditioned on."""
    names = dit.conditioning or [name for name in arguments if name not in (dit.latents, dit.timestep)]
    leaves = {name: list(_leaves(arguments.get(name))) for name in names}
    marks = {name: tuple(map(_mark, found)) for name, found in leaves.items() if found}
    return Conditioning(marks, tuple(leaf for found in leaves.values() for leaf in found))


def _leaves(value: Any, depth: int = 0) -> Iterator[Any]:
    """What is in a value, plain values left out: lists and dictionaries are often made anew around the same tensors."""
    if isinstance(value, PLAIN):
        return
    kind = type(value)
    if depth < DEEPEST and kind in (list, tuple, dict):
        for each in value.values() if kind is dict else value:
            yield from _leaves(each, depth + 1)
    else:
        yield value


def _mark(value: Any) -> Mark:
    """Equal for equal places and versions. A view that is made anew at every step is at the same place.

    Inference tensors have no version: what is written into them is not seen.
    """
    if not isinstance(value, Tensor):
        return (id(value),)
    version = None if value.is_inference() else value._version
    if type(value) is not Tensor or value.layout is not torch.strided or value.is_meta:
        return id(value), version
    return value.data_ptr(), version, value.shape, value.stride(), value.dtype, value.device
