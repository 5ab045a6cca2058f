"""Generations of hosts that denoise chunk by chunk in steps that are calls (MAGI-1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import NotApplied
from ..method import windows
from ..method.schedule import Schedule
from ..report.record import Generation as Record
from .architecture import Architecture, Stepwise
from .gauge import EXPECTED, ExpectedGauge, Gauge, LatentGauge, TimestepGauge, embedding
from .generation import Generation
from .host import Host
from .layout import Chunks
from .scope import Scope
from .session import Session

CONDITION = "timestep embedding"
LATENT = "embedded latents"


class StepGeneration(Generation):
    """One walk along a video, or along several whose steps take turns; each has a session of its own."""

    def __init__(
        self, architecture: Architecture, stepwise: Stepwise, scope: Scope, pipeline: Any, record: Record
    ) -> None:
        super().__init__(architecture, scope, pipeline, record)
        self.stepwise = stepwise
        self._sessions: dict[int, Session] = {}
        self._refused = False

    def enter_step(self, parameters: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The step seam is called: the session of its input is the present one, at that step.

        Raises NotApplied where the host asks for what we do not know; only the first time.
        """
        arguments = {**dict(zip(parameters, args, strict=False)), **kwargs}
        index, step = (int(arguments[name]) for name in self.stepwise.position)
        if self._refused:
            return
        if index not in self._sessions:
            self._sessions[index] = self._start(index)
        self.session = self._sessions[index]
        self.session.enter(step)

    def leave_step(self) -> None:
        """The step seam has returned or raised."""
        self.session = None

    def close(self, error: BaseException | None) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        super().close(error)

    def _start(self, index: int) -> Session:
        reason = self.architecture.refuse(self.pipeline, self.model)
        if reason:
            self._refused = True
            raise NotApplied(reason)
        frames, ranks = self.stepwise.frames(self.pipeline), self.stepwise.ranks()
        host = Host(
            layout=Chunks(frames),
            chunked=True,
            each=self.settings.per_chunk,
            by_value=False,
            work=lambda arguments: self.stepwise.work(self.model, arguments),
            unscheduled=self.stepwise.unscheduled,
            narrow=self.stepwise.narrow,
        )

        def schedule() -> Schedule:
            rows = self.stepwise.rows(self.pipeline, index)
            return windows.build(rows, frames, self.architecture.noise_level)

        return Session(
            schedule, self.policy, self.predictor, lambda: self._gauge(index, frames, ranks), self.record, host
        )

    def _gauge(self, index: int, frames: int, ranks: int) -> Gauge:
        signal = self.settings.signal
        if signal == "latent" and ranks > 1:
            # Ranks see different latents (pipeline stages), or round differently: they must decide alike.
            remark = f"{ranks} ranks share the model: decisions are not made from the latents, but from {EXPECTED}"
            self.record.remark(remark)
        elif signal == "latent":
            self.record.signal = LATENT
            return LatentGauge(embedding(self.stepwise.embed, self.model), Chunks(frames))
        if signal == "timestep":
            self.record.signal = CONDITION
            return TimestepGauge(lambda call: self.stepwise.feature(self.pipeline, index, self.model))
        self.record.signal = EXPECTED
        return ExpectedGauge()
