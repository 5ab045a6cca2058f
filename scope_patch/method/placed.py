"""Recomputes where a placement says so, and wherever the host or a history leaves no choice."""

from __future__ import annotations

from .decision import Decision, Mode, Observation

REASON = "plan"


class Placed:
    """The policy of one iteration under a placement; see `policies.Policy`. There is nothing to remember."""

    name = "placed"
    active = True

    def __init__(self, recompute: bool) -> None:
        self.recompute = recompute

    def initial(self) -> None:
        return None

    def step(self, state: None, observation: Observation) -> tuple[None, Decision]:
        for must, reason in (
            (observation.grew, "growth"),
            (observation.forced, "forced"),
            (observation.points < 1, "history"),
        ):
            if must:
                return None, Decision(Mode.RECOMPUTE, reason)
        # With one point a slot repeats its velocity, whatever the other slots have: each predicts from what it has.
        return None, Decision(Mode.RECOMPUTE if self.recompute else Mode.PREDICT, REASON)
