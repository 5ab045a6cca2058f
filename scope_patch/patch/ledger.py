"""What we replaced, so that it can be put back object by object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One replacement: on `owner`, attribute `name` (its own, or inherited: `had_own`) was `raw`."""

    owner: type
    name: str
    had_own: bool
    raw: Any
    replacement: Any


class Ledger:
    """Replacements in the order they were made; undone in reverse."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def replace(self, owner: type, name: str, make: Callable[[Any], Any]) -> None:
        """Replace `owner.name` by `make(raw)`, where raw is what the class (or a base) holds, descriptors unbound."""
        had_own = name in vars(owner)
        raw = vars(owner)[name] if had_own else next(vars(base)[name] for base in owner.__mro__ if name in vars(base))
        replacement = make(raw)
        setattr(owner, name, replacement)
        self.entries.append(Entry(owner, name, had_own, raw, replacement))

    def holds(self, owner: type, name: str) -> bool:
        """Whether a replacement of ours is in place there, possibly below somebody else's patch.

        One that was thrown out (the raw attribute is back) is forgotten.
        """
        for entry in [entry for entry in self.entries if entry.owner is owner and entry.name == name]:
            if self._is_below(entry):
                return True
            self.entries.remove(entry)
        return False

    def restore(self) -> list[Entry]:
        """Put back everything that is still ours. Returns what stays in place, below somebody else's patch."""
        covered = []
        for entry in reversed(self.entries):
            if vars(entry.owner).get(entry.name) is not entry.replacement:
                covered.append(entry)
            elif entry.had_own:
                setattr(entry.owner, entry.name, entry.raw)
            else:
                delattr(entry.owner, entry.name)
        self.entries = [entry for entry in reversed(covered) if self._is_below(entry)]
        return covered

    @staticmethod
    def _is_below(entry: Entry) -> bool:
        """Whether the attribute is anything but what was there before us."""
        return vars(entry.owner).get(entry.name) is not (entry.raw if entry.had_own else None)
