"""One call of a pipeline: its sessions, its record, and what is torn down when it ends, however it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..method import policies, predictors
from ..report.record import Generation as Record
from .architecture import Architecture
from .clock import Clock
from .scope import Scope, unwrap
from .session import Session


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
        cache, predict = scope.run.settings.for_host(architecture.presets)
        self.settings = replace(
            scope.run.settings,
            cache_threshold=cache,
            predict_threshold=predict,
            signal=scope.run.settings.signal or architecture.signal,
        )
        record.thresholds = cache, predict
        self.pipeline = pipeline
        self.model = unwrap(architecture.model(pipeline))
        self.policy = policies.create(self.settings)
        self.predictor = predictors.create(self.settings.predictor)
        self.session: Session | None = None
        self.clock = Clock(record.seconds)
        self.inside = False

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
