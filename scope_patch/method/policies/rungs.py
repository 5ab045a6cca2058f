"""A policy at other values of its knob, for a speed-up that is aimed at."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

AnyPolicy = TypeVar("AnyPolicy")


def rungs(policy: AnyPolicy, knob: str, values: Iterable[Any]) -> list[AnyPolicy]:
    """Copies of the policy, each with its attribute `knob` at one of the values."""
    made = []
    for value in values:
        rung = copy.copy(policy)
        setattr(rung, knob, value)
        made.append(rung)
    return made
