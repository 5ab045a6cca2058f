"""One call of a pipeline: its sessions, its record, and what is torn down when it ends, however it ends."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from ..method import policies, predictors
from ..method.asked import Terms, asked, planner
from ..method.changes import Changes
from ..method.plan import EVERYTHING, Work
from ..method.schedule import Schedule
from ..report.record import Generation as Record
from .architecture import Architecture
from .call import ForwardCall
from .clock import Clock
from .deciding import Planned
from .scope import Scope, unwrap
from .session import Session

logger = logging.getLogger("scope_patch")


class Generation:
    """State of one pipeline call.

    Attributes:
        scope: the request it runs under.
        pipeline: the object that was called.
        model: its DiT, out of any compiled wrapper.
        session: the segment or input under way, if any.
        inside: a forward of ours is running: seams below it (a compiled model has two) are passed through.
    """

    def __init__(self, architecture: Architecture, scope: Scope, pipeline: Any, record: Record) -> None:
        self.architecture, self.scope, self.record = architecture, scope, record
        self.settings = scope.run.settings
        self.signal_name = self.settings.signal or architecture.signal
        self.pipeline = pipeline
        self.model = unwrap(architecture.model(pipeline))
        self.policy = policies.create(self.settings)
        self.predictor = predictors.create(self.settings.predictor)
        self.session: Session | None = None
        self.clock = Clock(record.seconds)
        self.inside = False

    def planned(
        self, call: ForwardCall, schedule: Schedule, changes: Changes, index: int = 0, *, chunked: bool = False
    ) -> Planned:
        """Everything that will be decided, told to the record."""
        own = self.signal_name == self.architecture.signal  # the limit is in its units
        terms = Terms(
            self.architecture.presets,
            self.architecture.preset_limit if own else EVERYTHING,
            each=chunked and self.settings.per_chunk,
            patient=chunked,
        )
        work = self._work(call, schedule, index)
        made = asked(self.settings, terms, planner(self.settings, terms, schedule, changes, work))
        self.record.planned.append({"target": made.target, **made.plan.summary})
        if made.remark:
            self.record.remark(made.remark)
        return Planned(made.plan.verdicts)

    def _work(self, call: ForwardCall, schedule: Schedule, index: int) -> Work:
        """FLOPs by the host's cost model; slots where it has none, or the model is not as it expects."""
        try:
            if self.architecture.cost is not None:
                return cache(self.architecture.cost(self.pipeline, call.arguments, schedule, index))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            logger.info("%s: work is counted in latent frames: %r", self.architecture.name, error)
        return lambda iteration, slots: float(slots[1] - slots[0])

    def close(self, error: BaseException | None) -> None:
        """The pipeline returned or raised."""
        if self.session is not None:
            self.session.close()
            self.session = None
        self.record.finished = error is None
        if isinstance(error, GeneratorExit):
            self.record.error = "given up by its caller before the end"
        elif error is not None:
            self.record.error = f"{type(error).__name__}: {error}"
        self.clock.close()
