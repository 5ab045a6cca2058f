"""A policy's own settings: `--policy NAME:key=value,...`, read into a dataclass of the policy's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ...errors import UsageError
from ...settings import Settings
from ...values import integer, number, switch, text

Options = TypeVar("Options")
READERS: dict[str, Callable[[object, str], Any]] = {"float": number, "int": integer, "bool": switch, "str": text}


def own(settings: Settings, kind: type[Options]) -> Options:
    """The policy's own settings; what was not given has the dataclass's default.

    Args:
        kind: a dataclass of float, int, bool and str fields (or one of these `| None`), with defaults.

    Raises UsageError for a key that it has not, with those that it has, and for a value that cannot be read.
    """
    given: Mapping[str, str] = settings.policy_options
    known = {field.name: str(field.type).removesuffix(" | None") for field in fields(kind)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise UsageError(
                f"policy {settings.policy_name} has no setting {key!r}; it has {', '.join(known) or 'none of its own'}"
            )
    source = f"--policy {settings.policy_name}"
    return kind(**{key: READERS[known[key]](value, f"{source}:{key}") for key, value in given.items()})


def at_least(least: float, **values: float) -> None:
    """Raises UsageError for a value below `least`."""
    for name, value in values.items():
        if value < least:
            raise UsageError(f"{name} is {value:g}, but must be {least:g} or more")
