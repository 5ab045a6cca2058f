"""Reading values out of a report that may be anything, with errors that name the place."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from ..errors import UsageError

T = TypeVar("T")
_WORDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "yes or no"}


def kind(value: object) -> str:
    """What JSON calls a value, as a word for people."""
    return "null" if value is None else next(words for known, words in _WORDS.items() if type(value) is known)


def clean(text: str) -> str:
    """A text that any file and any terminal takes: no control characters, no halves of a surrogate pair."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text)


def _clean(value: object) -> object:
    return clean(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Place:
    """One object of a report, and where it stands in it ("segment 2 of generation 1")."""

    values: Mapping[str, Any]
    name: str

    def get(self, key: str, wanted: type[T], default: T | None = None) -> T:
        """The value of `key`. Raises UsageError where it is missing without a default, or of another kind."""
        if key not in self.values:
            if default is None:
                found = ", ".join(map(repr, self.values)) or "nothing"
                raise UsageError(f"{self.name} has no {key!r} (it has {found})")
            return default
        value = self.values[key]
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise UsageError(f"{self.name}: {key!r} is {kind(value)}, expected {_WORDS[wanted]}")
        return cast(T, _clean(value))

    def text(self, key: str) -> str | None:
        """A text or None."""
        return None if self.values.get(key) is None else self.get(key, str)

    def items(self, key: str, wanted: type[T], required: bool = False) -> list[T]:
        """A list of values of one kind; empty where it is missing and not required."""
        found = self.get(key, list, None if required else [])
        for k, value in enumerate(found):
            if type(value) is not wanted:
                raise UsageError(f"{self.name}: {key!r}[{k}] is {kind(value)}, expected {_WORDS[wanted]}")
        return [cast(T, _clean(value)) for value in found]

    def counts(self, key: str) -> dict[str, int]:
        """An object of names and how often; empty where it is missing."""
        inner = Place(self.get(key, dict, {}), f"{self.name}, {key!r}")
        return {clean(name): inner.get(name, int) for name in inner.values}

    def bounds(self, key: str, most: int) -> list[list[int]]:
        """Lists of rising numbers 0 .. `most`, two for every range; required."""
        rows: list[list[int]] = self.items(key, list, required=True)
        for k, row in enumerate(rows):
            numbers = all(type(number) is int for number in row)
            if len(row) % 2 or not numbers or sorted(row) != row or (row and not 0 <= row[0] <= row[-1] <= most):
                raise UsageError(f"{self.name}: {key!r}[{k}] is {row}, expected ranges inside [0, {most}]")
        return rows

    def same_length(self, one: str, other: str, lengths: tuple[int, int]) -> None:
        """Raises UsageError where two lists that go together do not."""
        if lengths[0] != lengths[1]:
            raise UsageError(f"{self.name}: {one} has {lengths[0]} entries, but {other} {lengths[1]}")
