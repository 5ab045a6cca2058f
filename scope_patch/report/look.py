"""How states and reasons look and what they are called, in every kind of picture.

Colours are Okabe and Ito's, which colour-blind readers tell apart. A darker state costs more work, and each state that
matters has a pattern of its own, so that a grey print tells the same.
"""

from __future__ import annotations

from typing import NamedTuple

from .timeline import ALONG, DONE, FORCED, NOT_RUN, WAITING


class Look(NamedTuple):
    """A state: its name, what it means, its colour on white, and a hatch (matplotlib's letters)."""

    name: str
    meaning: str
    colour: str
    hatch: str = ""


LOOKS: dict[str, Look] = {
    "R": Look("recomputed", "the DiT ran", "#0072B2"),
    "P": Look("predicted", "extrapolated from the last velocities", "#F0B43C", "////"),
    "C": Look("cached", "the last velocity again", "#A6DCC9", "...."),
    FORCED: Look("clean chunk", "finished; forced along, to cache its keys and values", "#B3568F", "xxxx"),
    ALONG: Look("forwarded along", "finished or not started; the DiT saw it, it was not integrated", "#B9D3E6"),
    DONE: Look("left out", "finished or given", "#E2E4E7"),
    WAITING: Look("not started", "not under way yet", "#FFFFFF"),
    NOT_RUN: Look("did not run", "the generation ended before", "#FFFFFF"),
}

REASONS: dict[str, str] = {
    "growth": "new latent frames came under way",
    "history": "too few velocities known to predict from",
    "horizon": "the limit of skipped steps in a row was reached",
    "threshold": "the accumulated change, against the thresholds",
    "plan": "placed where skipping errs least",
    "forced": "the host needs this forward for more than its velocity",
    "context": "a younger chunk is recomputed, and sees this one",
    "guard": "the history could not be used",
    "verify": "run to verify its prediction, or because another erred too much",
}

MARKS = {"growth": "triangle", "horizon": "disc", "forced": "diamond", "guard": "cross", "verify": "square"}
"""Reasons that are marked below a timeline; the others are the ordinary course."""


def step(length: float, most: int) -> int:
    """The distance of ticks, 1, 2 or 5 times a power of ten, so that there are at most `most` of them (at least 1)."""
    size = 1
    while True:
        for factor in (1, 2, 5):
            if length / (size * factor) <= most:
                return size * factor
        size *= 10
