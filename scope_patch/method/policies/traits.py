"""What policies share: what they want of their surroundings and may know of the model, and how they read settings."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from ...errors import UsageError
from ...settings import Settings
from ...values import reader

Options = TypeVar("Options")
AnyPolicy = TypeVar("AnyPolicy")


@dataclass(frozen=True)
class Traits:
    """Attributes:
    level: where it skips unless the user says otherwise: "velocity" (the forward is not called) or "residual" (it is
        called, and the residual of its blocks is made from earlier ones; embedding and head are fresh).
    self_tuned: it decides by settings of its own and on the host's own intervals; presets and thresholds mean nothing
        to it.
    per_slot: where slots can be decided one by one, it does so.
    joint: where they cannot be forwarded one by one, it still decides so, and all are forwarded as soon as one must.
    signal: what it decides from: "timestep" (the modulation that enters the blocks), "embedding" (the time embedding
        under it), "expected" (what is expected of the latents), or "none"; None: the host's own.
    predictor: what it predicts with; None: the user's.
    by_step: it predicts in the number of the denoise step, not in the noise level, and without our stability limits.
    residual_work: the share of a forward's work that a skipped one still does.
    """

    level: str = "velocity"
    self_tuned: bool = False
    per_slot: bool = True
    joint: bool = False
    signal: str | None = None
    predictor: str | None = None
    by_step: bool = False
    residual_work: float = 0.0


@dataclass(frozen=True)
class Size:
    """A DiT's channels and blocks (0 where they are not known), and whether its host denoises chunk by chunk."""

    width: int = 0
    blocks: int = 0
    chunked: bool = False


def traits(policy: Any) -> Traits:
    """The traits of a policy; those of ours that say nothing, and of other packages, are the paper's."""
    found = getattr(policy, "traits", None)
    return found if isinstance(found, Traits) else Traits()


@dataclass(frozen=True)
class NoOptions:
    """Of a policy that has no settings of its own."""


def options_of(settings: Settings, kind: type[Options]) -> Options:
    """The policy's own settings; what was not given has the dataclass's default.

    Args:
        kind: a dataclass of float, int, bool and str fields (or one of these `| None`), with defaults.

    Raises UsageError for a key that it has not, with those that it has, and for a value that cannot be read.
    """
    given: Mapping[str, str] = settings.policy_options
    known = {field.name: reader(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise UsageError(
                f"policy {settings.policy_name} has no setting {key!r}; it has {', '.join(known) or 'none of its own'}"
            )
    source = f"--policy {settings.policy_name}"
    return kind(**{key: known[key](value, f"{source}:{key}") for key, value in given.items()})


def at_least(least: float, **values: float) -> None:
    """Raises UsageError for a value below `least`."""
    for name, value in values.items():
        if value < least:
            raise UsageError(f"{name} is {value:g}, but must be {least:g} or more")


def varied(policy: AnyPolicy, knob: str, values: Iterable[Any]) -> list[AnyPolicy]:
    """Copies of the policy, each with its attribute `knob` at one of the values, for a speed-up that is aimed at."""
    copies = []
    for value in values:
        copies.append(copy.copy(policy))
        setattr(copies[-1], knob, value)
    return copies
