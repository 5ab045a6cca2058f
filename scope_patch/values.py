"""What people write, as values: numbers, switches, sizes of memory. The same for options, variables and keywords.

Every reader takes a value and where it came from, and raises UsageError for what it cannot read.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import UsageError

_OFF = ("0", "off", "false", "no")
_ON = ("1", "on", "true", "yes")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Z]*)\s*", re.IGNORECASE)


def switch(value: object, source: str) -> bool:
    """A boolean from True/False or from text such as `1`, `off`, `yes`."""
    text = str(value).strip().lower()
    if text not in _ON + _OFF:
        raise UsageError(f"{source} is {value!r}, which is neither on nor off; use one of {', '.join(_ON + _OFF)}")
    return text in _ON


def number(value: object, source: str) -> float:
    """A finite float."""
    try:
        if isinstance(value, bool):
            raise ValueError
        result = float(value)  # type: ignore[arg-type]  # anything float() takes; the rest is the error below
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{source} is {value!r}, which is not a number; give one such as 0.18") from None
    if not math.isfinite(result):
        raise UsageError(f"{source} is {value!r}, which is not finite; for 'always' give a large number such as 1e9")
    return result


def integer(value: object, source: str) -> int:
    """An int."""
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)  # type: ignore[call-overload,no-any-return]
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{source} is {value!r}, which is not a whole number; give one such as 5") from None


def text(value: object, source: str) -> str:
    """A non-empty string; a path or a number as one."""
    if not isinstance(value, str | os.PathLike | int | float) or isinstance(value, bool):
        raise UsageError(f"{source} is {value!r}, which is no text; give a name or a path")
    result = str(value)
    if not result.strip():
        raise UsageError(f"{source} is empty; give a value or leave it out")
    return result


_READERS: dict[str, Callable[[object, str], Any]] = {"float": number, "int": integer, "bool": switch, "str": text}


def reader(annotation: object) -> Callable[[object, str], Any]:
    """That of a dataclass's field, by its annotation: float, int, bool or str, or one of these `| None`."""
    return _READERS[str(annotation).removesuffix(" | None")]


def _bytes(text: str) -> int | None:
    """A size of memory as people write it: `500MB`, `1.5 GiB`, `4096`; None for anything else."""
    found = _SIZE.fullmatch(text)
    unit = None if found is None else _UNITS.get(found[2].upper())
    return None if found is None or unit is None else int(float(found[1]) * unit)


@dataclass(frozen=True)
class FrozenKeys:
    """What `--frozen-keys` says: `auto`, `off`, or a size; `:full` behind it: under full attention too.

    Attributes: size, bytes; None: a share of the device's memory. full, also where it is approximate.
    """

    size: int | None = None
    full: bool = False

    @classmethod
    def parse(cls, text: str) -> FrozenKeys | None:
        """None for `off`. Raises UsageError for anything else that is no size."""
        amount, colon, more = text.strip().lower().partition(":")
        size, full = _bytes(amount), bool(colon)
        if amount == "off" and not colon:
            return None
        if more == "full" * full and (amount == "auto" or size is not None):
            return cls(size, full)
        raise UsageError(
            f"frozen_keys is {text!r}, which is neither auto nor off nor a size; write one as 4GB or a number of "
            "bytes, and :full behind it where keys shall be kept under full attention too"
        )


@dataclass(frozen=True)
class Limit:
    """A limit of memory as people write it: `500MB`, `1.5GB`, `4096`; `:drop` behind it: nothing shall be moved.

    Attributes: size, bytes; drop, what goes beyond it is dropped, never moved.
    """

    size: int
    drop: bool = False

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Raises UsageError for anything that is no size."""
        amount, colon, more = text.rstrip().partition(":")
        size, drop = _bytes(amount), bool(colon)
        if size is None or more.lower() != "drop" * drop:
            raise UsageError(
                f"history_limit is {text!r}, which is no size; write one as 500MB, 1.5GB or a number of bytes, or as "
                "500MB:drop where older velocities shall be dropped, not moved to the CPU"
            )
        return cls(size, drop)
