"""What a session must know about the host whose forwards it decides, beside its schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .layout import Frames, Layout


def _scheduled(arguments: Mapping[str, Any]) -> str:
    return ""


def _whole(arguments: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
    raise NotImplementedError("this host's forwards cannot be narrowed")


@dataclass(frozen=True)
class Host:
    """Attributes:
    layout: how its velocities are laid out.
    chunked: slots are chunks of a moving window, and each has a history of its own.
    work: forward arguments -> (runs of the network, slots in them); None where a forward is one run over its slots.
    unscheduled: forward arguments -> why the call is none of a denoise step's own, or "".
    narrow: (forward arguments, first, last) -> arguments that forward only these slots of the call.
    """

    layout: Layout = field(default_factory=Frames)
    chunked: bool = False
    work: Callable[[Mapping[str, Any]], tuple[int, int]] | None = None
    unscheduled: Callable[[Mapping[str, Any]], str] = _scheduled
    narrow: Callable[[Mapping[str, Any], int, int], dict[str, Any]] = _whole

    def cost(self, arguments: Mapping[str, Any], slots: int) -> tuple[int, int]:
        """(runs of the network, slots in them) of one forward over so many slots."""
        return (1, slots) if self.work is None else self.work(arguments)
