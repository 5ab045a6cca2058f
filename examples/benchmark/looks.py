"""How a method is drawn: colours that colour-blind readers tell apart (Okabe and Ito), and shapes for print in grey."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

INK, SOFT = "#1A1D21", "#5A616B"  # as in the figures of `report`


@dataclass(frozen=True)
class Look:
    """Attributes: marker and line style as matplotlib names them."""

    colour: str
    marker: str
    line: str | tuple = "-"
    wide: float = 1.0


LOOKS = {
    "scope": Look("#0072B2", "o", "-", 2.0),
    "scope, thresholds": Look("#56B4E9", "s", "--"),
    "scope, calibrated": Look("#009E73", "D", "-."),
    "reduced steps": Look("#1A1D21", "X", ":"),
    "teacache": Look("#E69F00", "^"),
    "taylorseer": Look("#D55E00", "v"),
    "taylorseer, order 2": Look("#8A3A00", "<", (0, (4, 1.5))),
    "delta-dit": Look("#CC79A7", "P"),
    "flowcache": Look("#B3A600", "*", (0, (5, 1))),
}
"""Okabe and Ito's yellow is darkened: on paper it is not seen."""


def looks(names: list[str]) -> dict[str, Look]:
    """The look of every name: its own, or one that none of the others has."""
    spare = (look for _ in count() for look in LOOKS.values())
    taken = {LOOKS[name] for name in names if name in LOOKS}
    made = {}
    for name in names:
        look = LOOKS.get(name)
        if look is None:
            look = next(each for each in spare if each not in taken or len(taken) >= len(LOOKS))
            taken.add(look)
            look = replace(look, wide=1.0)
        made[name] = look
    return made
