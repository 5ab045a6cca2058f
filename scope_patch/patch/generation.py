"""One call of a pipeline: its sessions, its record, and what is torn down when it ends, however it ends."""

from __future__ import annotations

import json
import logging
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ..errors import NotApplied, UsageError
from ..method.calibration import Calibration
from ..method.changes import Feature, placed_by
from ..method.memory import Memory
from ..method.plan import Planner, Work
from ..method.policies.traits import Size
from ..method.profile import Profile, assumed, read
from ..method.resolved import method_of
from ..method.schedule import Schedule
from ..method.verifying import longest
from ..report.record import Generation as Record
from ..report.sink import put
from .architecture import Architecture
from .call import ForwardCall
from .clock import Clock
from .consensus import Consensus, Quorum
from .deciding import Planned
from .scope import Scope, unwrap
from .session import Session
from .terms import terms
from .verification import Verification

logger = logging.getLogger("scope_patch")


class Generation:
    """State of one pipeline call.

    Attributes:
        scope: the request it runs under.
        pipeline: the object that was called.
        model: its DiT, out of any compiled wrapper.
        level: where it is skipped, "velocity" or "residual".
        memory: of its histories.
        session: the segment or input under way, if any.
        started: its loop has begun. The same pipeline called before that is a part of it; called then (by a callback of
            the host), it is another generation.
        inside: a forward of ours is running: seams below it (a compiled model has two) are passed through.
        off: it runs unpatched from now on.
    """

    def __init__(
        self, architecture: Architecture, scope: Scope, pipeline: Any, record: Record, quorum: Quorum | None = None
    ) -> None:
        self.architecture, self.scope, self.record = architecture, scope, record
        self._quorum = quorum or Quorum(architecture.name)
        self._consensus: Consensus | None = None
        self.settings = scope.run.settings
        self.pipeline = pipeline
        self.model = unwrap(architecture.model(pipeline))
        size = Size(*architecture.size(self.model), chunked=architecture.stepwise is not None)
        self.method = method_of(self.settings, terms(architecture, size))
        self.policy, self.traits, self.level = self.method.policy, self.method.traits, self.method.level
        self.signal_name, self.predictor = self.method.signal, self.method.predictor
        if self.traits.residual_work:
            record.remark(
                f"a skipped forward still does {self.traits.residual_work:.0%} of its work: it runs the other blocks"
            )
        self.session: Session | None = None
        self._verifications: dict[int, Verification | None] = {}
        self.memory = Memory(self.settings.limit if scope.calibration is None else None)
        self.clock = Clock(record.seconds)
        self.started = self.inside = self.off = False

    def gather(self) -> None:
        """Know the ranks that share the DiT, so that whatever fails from here on is told to them."""
        if self._consensus is None and self.policy.active:
            self._consensus = self._quorum.of(self.architecture.ranks(self.pipeline), self.settings.rank_timeout)

    def agree(self, what: str) -> None:
        """Before anything is left out. Raises NotApplied where the ranks that share the DiT do not all go along."""
        if self._consensus is None or self._consensus.agree(what):
            return
        raise NotApplied(
            "the ranks that share the model did not agree to leave anything out, so all run unpatched: one of them is "
            "not patched, has other settings, has failed, or took longer than "
            f"{self.settings.rank_timeout:g} s (--rank-timeout)"
        )

    def leave(self) -> None:
        """This rank goes on unpatched, and so must those that share the DiT with it."""
        if self._consensus is not None:
            self._consensus.leave()

    def switch_off(self, reason: str) -> None:
        """Run unpatched from now on, and let go of the history."""
        if self.off:
            return
        self.off = True
        self.record.applied = self.record.forwards_skipped > 0
        self.record.reasons.append(reason)
        self.leave()
        self.forget()

    def forget(self) -> None:
        """Let go of every tensor."""
        if self.session is not None:
            self.session.forget()

    def obstacle(self) -> str:
        """Why the level that was asked for cannot be had, or ""."""
        if self.level == "velocity" or not self.policy.active:
            return ""
        outer = self.architecture.model(self.pipeline)
        compiled = outer is not self.model or getattr(self.model, "_compiled_call_impl", None) is not None
        reason = "the model is compiled" if compiled else self.architecture.bypass(self.pipeline)
        return reason and f"blocks cannot be bypassed (the residual level): {reason}; take --level velocity"

    def planned(self, call: ForwardCall, schedule: Schedule, feature: Feature | None = None, index: int = 0) -> Planned:
        """Everything that will be decided, told to the record."""
        work = self._work(call, schedule, index)
        plans = Planner(self.method, schedule, work, feature)
        told = made = plans.resolved(self._profile)
        verification = self.verification(index)
        if verification is not None:
            told, _ = plans.verified(made, verification.state)
        planned = {"target": told.target, **told.plan.summary}
        if verification is not None:
            verification.follow(longest(told.plan.verdicts), planned, work)
        self.record.planned.append(planned)
        if made.remark:
            self.record.remark(made.remark)
        return Planned(made.plan.verdicts)

    def placed(self, call: ForwardCall, schedule: Schedule, index: int = 0) -> Planned:
        """The same where no signal is asked: recomputes are placed by noise levels alone."""
        self.record.signal = placed_by(None if self._profile is None else self.settings.profile)
        return self.planned(call, schedule, index=index)

    @property
    def ranks(self) -> int:
        """How many processes share the DiT."""
        return max(1, len(self.architecture.ranks(self.pipeline)))

    def verification(self, index: int = 0) -> Verification | None:
        """What runs some skipped forwards all the same, one a video (an input); None where that is not asked for.

        Where it is asked for and cannot be had, the record says why.
        """
        if index not in self._verifications:
            self._verifications[index] = self._verification()
        return self._verifications[index]

    def _verification(self) -> Verification | None:
        if not self.settings.verify:
            return None
        reason = self.method.unverifiable(self.ranks)
        if reason:
            self.record.remark(f"no skipped step is verified: {reason}")
            return None
        profile = None if self.traits.by_step else self._profile or assumed()
        return Verification(self.settings.verify, self.settings.verify_bound, self.settings.max_skip, profile)

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
        session, self.session = self.session, None
        self.record.finished = error is None
        if error is None and any(each is not None and not each.compared for each in self._verifications.values()):
            self.record.remark(f"no skipped step was verified: fewer than {self.settings.verify} were skipped")
        if isinstance(error, GeneratorExit):
            self.record.error = "given up by its caller before the end"
        elif error is not None:
            self.record.error = f"{type(error).__name__}: {error}"
        if session is not None:
            session.close()
        for remark in self.memory.remarks():
            self.record.remark(remark)
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
