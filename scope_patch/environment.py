"""Reading the environment: which names are ours, what their text means, and the kill switch."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping

from .errors import UsageError

PREFIX = "SCOPE_PATCH_"
SWITCH = "SCOPE_PATCH"
# Not settings, but ours all the same: no warning about them.
OTHERS = ("SCOPE_PATCH_DRY_RUN", "SCOPE_PATCH_LPIPS", "SCOPE_PATCH_UPSTREAM")
# From the launcher to bootstrap/sitecustomize.py; the underscore keeps them out of the users' name space.
TRIGGERS = "_SCOPE_PATCH_TRIGGERS"
LAUNCHER = "_SCOPE_PATCH_LAUNCHER"

_OFF = ("0", "off", "false", "no")
_ON = ("1", "on", "true", "yes")


def variable(name: str) -> str:
    """The environment variable of a setting: `cache_threshold` -> `SCOPE_PATCH_CACHE_THRESHOLD`."""
    return PREFIX + name.upper()


def named(registry: str | None) -> str | None:
    """The registry file that the user names, by an option or else by SCOPE_PATCH_REGISTRY."""
    return registry or os.environ.get(variable("registry")) or None


def switched_off(environ: Mapping[str, str]) -> bool:
    """True under `SCOPE_PATCH=0`. Raises UsageError when the value is neither an on nor an off."""
    text = environ.get(SWITCH, "")
    return bool(text) and not switch(text, SWITCH)


def unknown_names(environ: Mapping[str, str], settings: Iterable[str]) -> list[str]:
    """One sentence for each `SCOPE_PATCH_*` variable that nobody reads, with the nearest name that somebody does."""
    known = {variable(name) for name in settings} | set(OTHERS)
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    return [f"environment variable {name} is not known and is ignored{nearest(name, known)}" for name in unknown]


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or the list of what there is when nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(names)}"


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that nobody provides, with the nearest one that somebody does."""
    return UsageError(f"there is no {kind} {name!r}{nearest(name, known)}")


def switch(value: object, source: str) -> bool:
    """A boolean from True/False or from text such as `1`, `off`, `yes`. Raises UsageError."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _ON:
        return True
    if text in _OFF:
        return False
    raise UsageError(f"{source} is {value!r}, which is neither on nor off; use one of {', '.join(_ON + _OFF)}")


def number(value: object, source: str) -> float:
    """A finite float. Raises UsageError."""
    try:
        if isinstance(value, bool):
            raise ValueError
        result = float(value)  # type: ignore[arg-type]  # anything float() takes; the rest is the error below
    except (TypeError, ValueError):
        raise UsageError(f"{source} is {value!r}, which is not a number; give one such as 0.18") from None
    if not math.isfinite(result):
        raise UsageError(f"{source} is {value!r}, which is not finite; for 'always' give a large number such as 1e9")
    return result


def integer(value: object, source: str) -> int:
    """An int. Raises UsageError."""
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)  # type: ignore[call-overload,no-any-return]
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{source} is {value!r}, which is not a whole number; give one such as 5") from None


def text(value: object, source: str) -> str:
    """A non-empty string (or a path). Raises UsageError."""
    result = str(value)
    if not result.strip():
        raise UsageError(f"{source} is empty; give a value or leave it out")
    return result
