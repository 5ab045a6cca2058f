"""Policy `never`: patched, yet every step is recomputed; bit-identical to the unpatched host."""

from __future__ import annotations

from ...settings import Settings
from ..decision import Decision, Mode, Observation


class Never:
    """Every step is recomputed on the host's own intervals: for comparing and for finding faults."""

    name = "never"
    active = False

    def __init__(self, settings: Settings) -> None:
        del settings

    def initial(self) -> None:
        return None

    def step(self, state: None, observation: Observation) -> tuple[None, Decision]:
        return None, Decision(Mode.RECOMPUTE, "forced")
