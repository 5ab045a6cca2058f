"""One call of a pipeline: its sessions, its record, and what is torn down when it ends, however it ends."""

from __future__ import annotations

import json
import logging
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..method import policies, predictors
from ..method.asked import asked, planner
from ..method.calibration import Calibration
from ..method.changes import Changes, placed_by, unasked
from ..method.plan import Work
from ..method.policies.traits import Size, traits
from ..method.profile import Profile, read
from ..method.schedule import Schedule
from ..report.record import Generation as Record
from ..report.sink import put
from .architecture import Architecture
from .call import ForwardCall
from .clock import Clock
from .deciding import Planned
from .scope import Scope, unwrap
from .session import Session
from .terms import terms

logger = logging.getLogger("scope_patch")


class Generation:
    """State of one pipeline call.

    Attributes:
        scope: the request it runs under.
        pipeline: the object that was called.
        model: its DiT, out of any compiled wrapper.
        level: where it is skipped, "velocity" or "residual".
        session: the segment or input under way, if any.
        inside: a forward of ours is running: seams below it (a compiled model has two) are passed through.
        refused: the host turned out to be none that we know; what is left of this generation is its own.
    """

    def __init__(self, architecture: Architecture, scope: Scope, pipeline: Any, record: Record) -> None:
        self.architecture, self.scope, self.record = architecture, scope, record
        self.settings = scope.run.settings
        self.pipeline = pipeline
        self.model = unwrap(architecture.model(pipeline))
        size = Size(*architecture.size(self.model), chunked=architecture.stepwise is not None)
        self.terms = terms(architecture, self.settings, size)
        self.policy = policies.create(self.settings, size)
        self.traits = traits(self.policy)
        self.level = self.settings.level or self.traits.level
        self.signal_name = self.settings.signal or self.traits.signal or architecture.signal
        self.predictor = predictors.create(self.traits.predictor or self.settings.predictor)
        if self.traits.left:
            record.remark(f"a skipped forward still does {self.traits.left:.0%} of its work: it runs the other blocks")
        self.session: Session | None = None
        self.clock = Clock(record.seconds)
        self.inside = False
        self.refused = False

    def refuse(self, reason: str) -> None:
        """Leave the rest of the generation to the host."""
        self.refused, self.session = True, None
        self.record.applied = self.record.forwards_skipped > 0
        self.record.reasons.append(reason)

    def obstacle(self) -> str:
        """Why the level that was asked for cannot be had, or ""."""
        if self.level == "velocity" or not self.policy.active:
            return ""
        outer = self.architecture.model(self.pipeline)
        compiled = outer is not self.model or getattr(self.model, "_compiled_call_impl", None) is not None
        reason = "the model is compiled" if compiled else self.architecture.bypass(self.pipeline)
        return reason and f"blocks cannot be bypassed (the residual level): {reason}; take --level velocity"

    def planned(self, call: ForwardCall, schedule: Schedule, changes: Changes, index: int = 0) -> Planned:
        """Everything that will be decided, told to the record."""
        plans = planner(self.settings, self.terms, schedule, changes, self._work(call, schedule, index))
        made = asked(self.settings, self.terms, plans, self._profile)
        self.record.planned.append({"target": made.target, **made.plan.summary})
        if made.remark:
            self.record.remark(made.remark)
        return Planned(made.plan.verdicts)

    def placed(self, call: ForwardCall, schedule: Schedule, index: int = 0) -> Planned:
        """The same where no signal is asked: recomputes are placed by noise levels alone."""
        self.record.signal = placed_by(None if self._profile is None else self.settings.profile)
        return self.planned(call, schedule, unasked, index)

    @cached_property
    def _profile(self) -> Profile | None:
        """What was measured of the velocities; a file that has become unusable costs a remark."""
        if self.settings.profile is None:
            return None
        try:
            found = read(self.settings.profile)
        except UsageError as error:
            self.record.remark(f"{error}; recomputes are placed without it")
            return None
        if found.host not in ("", self.architecture.name):
            self.record.remark(f"the profile {self.settings.profile} was measured on {found.host}; it is not used")
            return None
        return found

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
        if error is None and self.scope.calibration is not None and self.record.applied:
            self._write_profile(self.scope.calibration)

    def _write_profile(self, calibration: Calibration) -> None:
        """After every generation that ended well: a job that is cut short has lost nothing."""
        path = self.settings.calibrate
        assert path is not None
        profile = calibration.profile(self.architecture.name)
        if profile is None:
            self.record.remark("no profile was written: no latent frame was denoised for three steps in a row")
            return
        try:
            put(Path(path), json.dumps(profile.as_dict(), indent=1) + "\n")
        except OSError as problem:
            logger.warning("the profile could not be written to %s: %s", path, problem)
            return
        self.record.remark(
            f"{path}: how velocities change at {len(profile.levels)} noise levels; use it with --profile"
        )
