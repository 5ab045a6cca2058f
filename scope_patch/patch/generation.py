"""One call of a pipeline: its sections, its record, and what is torn down when it ends, however it ends."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import NotApplied
from ..method.decision import Size
from ..method.history import FRAME_AXIS
from ..method.memory import Memory
from ..method.profile import Calibration, assumed
from ..method.resolved import method_of
from ..method.schedule import Table
from ..report.job import put
from ..report.record import GenerationRecord
from .agreement import Agreements, RankAgreement, rank
from .bypass import claim, release
from .guard import Request, unwrap
from .host import NO_WIDTHS, Host
from .loops import Loop
from .measured import Stopwatch, Verification
from .planning import Planning
from .session import LOST, Session
from .sharing import Sharing, sharing

logger = logging.getLogger("scope_patch")

SHARED = "another generation skips blocks of the same model at this moment; run them in turn, or take --level velocity"


class Generation:
    """State of one pipeline call.

    Attributes:
        place: what the loop kind remembers of it.
        pipeline: the object that was called.
        arguments: that call's, by parameter name.
        model: its DiT, out of any compiled wrapper.
        method: the settings, resolved for this host and model.
        sections: runs of the denoise loop that are under way, by key: one, or one an input whose steps take turns.
        session: the section that the next forward belongs to, if any.
        started: its loop has begun. The same pipeline called before that is a part of it; called then (by a callback of
            the host), it is another generation.
        calls: of the DiT, whatever became of them.
        elsewhere: calls of another network of its class.
        inside: a forward of ours is running: seams below it (a compiled model has two) are passed through.
        stepping: a method of its solver is running: those that it calls of its own are passed through.
        strange_device: the script has made another device than the CPU its default.
        off: it runs unpatched from now on.
        failed: nobody asked for that.
    """

    def __init__(
        self, host: Host, loop: Loop, request: Request, pipeline: Any, agreements: Agreements, arguments: dict[str, Any]
    ) -> None:
        self.host, self.loop, self.request, self.pipeline = host, loop, request, pipeline
        self.record = record = GenerationRecord(pid=os.getpid(), rank=rank())
        self.place: Any = None
        self.arguments, self._agreements = arguments, agreements
        self._agreement: RankAgreement | None = None
        self.settings = request.run.settings
        record.ranks = [] if record.rank is None else [record.rank]
        self.model = unwrap(host.model(pipeline))
        size = Size(*host.size(self.model, host.dit.blocks), chunked=host.moving)
        self.method = method_of(self.settings, host.defaults_for(size))
        if self.method.replays and not loop.takes_again(pipeline):  # plans must not count on it
            self.method = replace(self.method, settings=replace(self.settings, replay=False))
        share = self.method.traits.residual_work
        if share:
            record.remark(f"a skipped forward still does {share:.0%} of its work: it runs the other blocks")
        self.sections: dict[int, Session] = {}
        self.session: Session | None = None
        self._verifications: dict[int, Verification | None] = {}
        self.memory = Memory(self.settings.limit if request.calibration is None else None)
        self.stopwatch = Stopwatch(record.seconds)
        self.started = self.inside = self.stepping = self.off = self.failed = self._strayed = False
        self.strange_device = torch.get_default_device().type != "cpu"
        self.calls = self.elsewhere = 0
        self._newest: Session | None = None
        self._early = 0  # slots of forwards that a section has not begun for yet, of which it will be told
        if host.moving and self.settings.widths is not None:
            record.remark(NO_WIDTHS)

    def begin(self, table: Callable[[], Table], what: str, key: int = 0) -> Session:
        """A section of the loop begins; one of the same key that is under way has ended.

        Args:
            table: makes its table, at the loop's first iteration.
            what: the section, for ranks that must agree on it.

        Raises NotApplied where it must run unpatched.
        """
        if not self.started:
            self.started, self.record.call = True, self._agreements.call(self.sharing.ranks)
        self.end_section(key)
        if self._agreement is None and self.method.policy.active:
            # Known before anything can fail, so that whatever does is told to the ranks that share the DiT.
            self._agreement = self._agreements.of(self.sharing.ranks, self.settings.rank_timeout, self.sharing.why)
        # Asked here, not at the start: pipelines switch their caches on and off while they prepare.
        reason = self.host.refuse(self.pipeline, self.model, self.arguments) or self._obstacle()
        if reason:
            raise NotApplied(reason)
        if key not in self._verifications:
            self._verifications[key] = self._verification()
        verification = self._verifications[key]
        kind, optional = self.loop.session() or Session, (self.request.calibration, self._agreement, verification)
        session = kind(self._planning, self.loop, table, key, self.memory, *optional)
        if self._agreement is not None:
            self._agreement.require(f"{what} under {self.settings.fingerprint}")
        session.early, self._early = self._early, 0
        self.sections[key] = self._newest = session
        return session

    def end_section(self, key: int = 0) -> None:
        """The loop has left it: let go of its tensors, and read what was counted on the device."""
        session, self.session = self.sections.pop(key, None), None
        if session is not None:
            session.close()

    def stray(self) -> None:
        """A forward comes that belongs to no iteration. The first one is told of; raises NotApplied under strict."""
        reason = self._idle or LOST
        self.record.remark(LOST)
        if self.settings.strict:
            raise NotApplied(reason)
        if not self._strayed:
            logger.warning("%s: %s", self.host.name, reason)
        self._strayed = True

    def own(self, arguments: Mapping[str, Any]) -> None:
        """A forward of the host's own runs, and is counted: none of a denoise step's, or after all is over for us."""
        runs, slots = self.runs(arguments)
        self.record.forwards_run += runs
        session = self._newest if self.off else self.session
        if session is not None and session.schedule is not None:
            session.count(slots, slots)
        else:
            self._early += slots

    def widened(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """Arguments of a forward that the loop has narrowed, made whole where we cannot serve it; None: it is whole."""
        session = self.session or self._newest
        return None if session is None or session.frozen is None else session.frozen.widened(arguments)

    def runs(self, arguments: Mapping[str, Any]) -> tuple[int, int]:
        """(runs of the network, slots in them) of a forward, whatever it is called with."""
        latents = arguments.get(self.host.dit.latents)
        frames = latents.shape[FRAME_AXIS] if isinstance(latents, Tensor) and latents.dim() > FRAME_AXIS else 0
        session = self.session or self._newest
        schedule = None if session is None else session.schedule
        try:
            return self.host.runs(self.model, arguments, frames // (1 if schedule is None else schedule.frames))
        except (AttributeError, LookupError, TypeError, ValueError):
            return 1, 0  # called in a way that nobody knows

    def switch_off(self, reason: str, *, asked: bool = False) -> None:
        """Run unpatched from now on, and let go of the history; ranks that share the DiT must do so too.

        Args:
            asked: by the user, so that it is no failure.
        """
        if self.off:
            return
        self.off, self.failed = True, not asked
        narrowed = any(each.slots_computed < each.slots_baseline for each in self.record.segments)
        narrowed |= any(session.narrowed for session in self.sections.values())
        self.record.switched_off(reason, narrowed, None if self.session is None else self.session.iteration)
        if self._agreement is not None:
            self._agreement.leave()
        for session in self.sections.values():
            session.forget()

    @cached_property
    def sharing(self) -> Sharing:
        """How ranks share the DiT, as it was when the loop began."""
        own = None if self.host.ranks is None else self.host.ranks(self.pipeline)
        return sharing(self.host.model(self.pipeline), own)

    @cached_property
    def _planning(self) -> Planning:
        return Planning(self)

    def _obstacle(self) -> str:
        """Why what was asked for cannot be had, or ""."""
        if self.request.calibration is not None and self.host.moving and self.sharing.ranks:
            # a rank that is not the last sees no velocities
            return "a profile is measured on one rank; calibrate without torchrun, on a short video if need be"
        if self._planning.span is None:
            return ""
        outer = self.host.model(self.pipeline)
        compiled = hasattr(outer, "_orig_mod") or getattr(self.model, "_compiled_call_impl", None)
        reason = "the model is compiled" if compiled else self.host.bypass(self.pipeline)
        if not reason and self.sharing.tokens:
            reason = f"its tokens may be split among ranks ({self.sharing.why})"
        if reason:
            return f"blocks cannot be bypassed (the residual level): {reason}; take --level velocity"
        return "" if claim(self.model, self) else SHARED

    def _verification(self) -> Verification | None:
        """What runs some skipped forwards all the same, one a video (an input); None where that is not asked for.

        Where it is asked for and cannot be had, the record says why.
        """
        if not self.settings.verify:
            return None
        reason = self.loop.unverifiable or self.method.unverifiable(len(self.sharing.ranks))
        if reason:
            self.record.remark(f"no skipped step is verified: {reason}")
            return None
        profile = None if self.method.traits.by_step else self._planning.profile or assumed()
        return Verification(self.settings.verify, self.settings.verify_bound, profile)

    def close(self, error: BaseException | None) -> None:
        """The pipeline returned or raised.

        Raises NotApplied where the DiT was called, and the loop never seen: nothing was done, and that must be said.
        """
        self.record.finished = error is None
        release(self.model, self)
        if error is not None and self._agreement is not None:
            # Else the others would wait here, and not in the host's own collective. All may raise, and do well later.
            self._agreement.leave(refused=False)
        if error is None and any(each is not None and not each.compared for each in self._verifications.values()):
            self.record.remark(f"no skipped step was verified: fewer than {self.settings.verify} were skipped")
        if isinstance(error, GeneratorExit):
            self.record.error = "given up by its caller before the end"
        elif error is not None:
            self.record.error = f"{type(error).__name__}: {error}"
        for key in [*self.sections]:
            self.end_section(key)
        for remark in self.memory.remarks():
            self.record.remark(remark)
        self.stopwatch.close()
        if error is None and self.request.calibration is not None and self.record.applied:
            self._write_profile(self.request.calibration)
        if self.elsewhere:
            self.record.remark(
                f"{self.elsewhere} forwards went to another network than the accelerated one: they all ran, and "
                "are in none of these counts"
            )
        if error is not None:
            return
        seen = self.calls or self.elsewhere or self._strayed
        if not self.off and seen and self._idle:
            raise NotApplied(self._idle)
        if self.failed and self.settings.strict:
            raise NotApplied("; ".join(self.record.reasons))  # told before, to whoever did not pass it on

    @property
    def _idle(self) -> str:
        """Why nothing was decided; "" where something was, and the loop told where it is."""
        if not self.loop.idle(self) and any(segment.modes for segment in self.record.segments):
            return ""
        called = f"the DiT was called {self.calls} times, and the denoise loop was never seen to go on"
        if not self.calls:
            called = "no forward of the DiT was seen"
        beside = f", {self.elsewhere} of another network of its class" if self.elsewhere else ""
        where = "see `Bound but idle` in docs/patching.md"
        return f"bound but idle: {called}{beside} (the file says it is {self.loop}); {where}"

    def _write_profile(self, calibration: Calibration) -> None:
        """After every generation that ended well: a job that is cut short has lost nothing."""
        path = self.settings.calibrate
        assert path is not None
        profile = calibration.profile(self.host.name)
        if profile is None:
            self.record.remark("no profile was written: no latent frame was denoised for three steps in a row")
            return
        try:
            put(Path(path), json.dumps(profile.as_dict(), indent=1) + "\n")
        except OSError as problem:
            logger.warning("the profile could not be written to %s: %s", path, problem)
        else:
            known = f"{path}: how velocities change at {len(profile.levels)} noise levels"
            self.record.remark(f"{known}; use it with --profile")
