"""Generations of hosts that denoise chunk by chunk in steps that are calls (MAGI-1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import NotApplied
from ..hosts.magi import window_table
from ..method.changes import EXPECTED
from ..method.fold import StepDecision
from ..method.schedule import Schedule, by_step
from ..report.record import Generation as Record
from .architecture import Architecture, Stepwise
from .call import ForwardCall
from .consensus import Quorum
from .deciding import Decider
from .generation import Generation
from .host import Host
from .layout import Chunks
from .scope import Scope
from .session import Session
from .terms import NO_WIDTHS

CONDITION = "timestep embedding"


class StepGeneration(Generation):
    """One walk along a video, or along several whose steps take turns; each has a session of its own."""

    def __init__(
        self,
        architecture: Architecture,
        stepwise: Stepwise,
        scope: Scope,
        pipeline: Any,
        record: Record,
        quorum: Quorum | None = None,
    ) -> None:
        super().__init__(architecture, scope, pipeline, record, quorum)
        self.stepwise = stepwise
        self._sessions: dict[int, Session] = {}
        if self.settings.widths is not None:
            record.remark(NO_WIDTHS)

    def enter_step(self, parameters: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The step seam is called: the session of its input is the present one, at that step.

        Raises NotApplied where the host asks for what we do not know; only the first time.
        """
        arguments = {**dict(zip(parameters, args, strict=False)), **kwargs}
        index, step = (int(arguments[name]) for name in self.stepwise.position)
        self.started = True
        if self.off:
            return
        if index not in self._sessions:
            self._sessions[index] = self._start(index)
        session = self._sessions[index]
        session.enter(step)
        self.session = session  # only now: where entering failed, its forward is none of ours

    def forget(self) -> None:
        for session in self._sessions.values():
            session.forget()

    def close(self, error: BaseException | None) -> None:
        sessions = list(self._sessions.values())
        self._sessions.clear()
        super().close(error)
        for session in sessions:
            session.close()

    def _start(self, index: int) -> Session:
        self.gather()
        reason = self.architecture.refuse(self.pipeline, self.model) or self.obstacle()
        if reason:
            raise NotApplied(reason)
        frames, ranks = self.stepwise.frames(self.pipeline), self.ranks
        if self.scope.calibration is not None and ranks > 1:
            raise NotApplied(  # a rank that is not the last sees no velocities
                "a profile is measured on one rank; calibrate without torchrun, on a short video if need be"
            )
        host = Host(
            layout=Chunks(frames),
            chunked=True,
            work=lambda arguments: self.stepwise.work(self.model, arguments),
            unscheduled=self.stepwise.unscheduled,
            narrow=self.stepwise.narrow,
        )

        def schedule() -> Schedule:
            try:
                rows = self.stepwise.rows(self.pipeline, index)
                table = window_table(rows, frames)
                table.check()
                made = Schedule.of(table)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise NotApplied(f"the schedule cannot be read from the host's own methods: {error!r}") from error
            return by_step(made) if self.traits.by_step else made

        def decider(call: ForwardCall, schedule: Schedule) -> Decider:
            return Attentive(self._decider(call, schedule, index), schedule)

        self.agree(f"input {index} under {self.settings.fingerprint}")
        return Session(
            schedule,
            decider,
            self.predictor,
            self.record,
            host,
            keep=self.policy.active,
            calibration=self.scope.calibration,
            memory=self.memory,
            limits=self.method.limits,
            agree=self.agree,
            verification=self.verification(index),
        )

    def _decider(self, call: ForwardCall, schedule: Schedule, index: int) -> Decider:
        signal = self.signal_name
        if self.method.placed:
            return self.placed(call, schedule, index)
        if signal == "none":
            return self.planned(call, schedule, index=index)
        if signal in ("timestep", "embedding"):
            self.record.signal = CONDITION
            feature = self.stepwise.feature(self.pipeline, index, self.model)
            return self.planned(call, schedule, feature, index)
        self.record.signal = EXPECTED
        return self.planned(call, schedule, index=index)


class Attentive:
    """A decider that looks twice whether the DiT gets the timesteps of the schedule, chunk by chunk.

    Before the first that may be skipped, and where the window is at its widest, so that the order of its chunks shows.
    """

    def __init__(self, decider: Decider, schedule: Schedule) -> None:
        widths = [end - start for start, end in schedule.intervals]
        self._decider, self._schedule = decider, schedule
        self._looks = {1, widths.index(max(widths))}

    def verdict(self, call: ForwardCall, iteration: int) -> StepDecision:
        """Raises NotApplied where they are others."""
        if iteration in self._looks:
            self.look(call, iteration)
        return self._decider.verdict(call, iteration)

    def look(self, call: ForwardCall, iteration: int) -> None:
        schedule = self._schedule
        start, end = schedule.intervals[iteration]
        wanted = schedule.timesteps[iteration, start:end]
        found = call.timestep[0, schedule.clean_prefix(iteration) :].to("cpu", wanted.dtype)
        if not torch.allclose(found, wanted, rtol=0.01, atol=1e-4):  # some hosts round them
            raise NotApplied(
                f"the DiT is called with the timesteps {found.tolist()} at step {iteration}, "
                f"but the host's own methods say {wanted.tolist()}"
            )
