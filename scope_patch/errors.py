"""The exceptions that scope_patch raises on purpose. Each message says what happened and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ScopePatchError(Exception):
    """Base of everything below: `except ScopePatchError` catches all that is ours and nothing of the host's."""


class UsageError(ScopePatchError):
    """An option, an environment variable or an argument cannot be used. The command line exits with 2."""


class NotApplied(ScopePatchError):  # noqa: N818 - the contract's name; it says the outcome, which "…Error" would blur
    """A host that was asked for by name (or under `--strict`) could not be patched; it runs unpatched otherwise."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that nobody provides, with the nearest one that somebody does."""
    return UsageError(f"there is no {kind} {name!r}{nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or the list of what there is when nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(names)}"
