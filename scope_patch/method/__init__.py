"""The method of SCOPE (arXiv 2604.02979) in plain tensors: no host knowledge, no patching.

Its policies and predictors are found by name: built in, or added by an entry point.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..errors import UsageError, unknown


def foreign(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group, by name; nothing is loaded yet."""
    return {point.name: point for point in entry_points(group=group)}


def describe(built_in: Mapping[str, Any], group: str) -> dict[str, str]:
    """Name -> the first line of its docstring, with the distribution for those that come by entry point."""
    known = {name: (thing.__doc__ or "").strip().splitlines()[0] for name, thing in built_in.items()}
    for name, point in foreign(group).items():
        known.setdefault(name, f"{point.value} (entry point of {point.dist.name if point.dist else 'unknown'})")
    return known


def find(name: str, built_in: Mapping[str, Any], group: str, kind: str) -> Any:
    """The thing of that name; built-in names cannot be taken over by an entry point.

    Raises UsageError for an unknown name or for a plugin that fails to load.
    """
    if name in built_in:
        return built_in[name]
    points = foreign(group)
    if name not in points:
        raise unknown(kind, name, [*built_in, *points])
    try:
        return points[name].load()
    except (Exception, SystemExit) as error:
        raise UsageError(f"the {kind} {name!r} ({points[name].value}) failed to load: {error!r}") from error
