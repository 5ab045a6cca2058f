"""Generations of hosts whose loop indexes a list of intervals, segment by segment (SkyReels-V2)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import NotApplied
from ..method.changes import EXPECTED, Feature
from ..method.schedule import Interval, Schedule, Table, by_step
from ..method.widths import Widths
from ..report.record import Generation as Record
from .architecture import Architecture
from .bypass import Bypass, whole
from .call import ForwardCall
from .claims import claim, release
from .compiled import few_enough, told
from .consensus import Quorum
from .deciding import Planned
from .generation import Generation
from .intervals import WatchedIntervals
from .scope import Scope
from .session import LOST, Session
from .signal import SLICED, TIMESTEP, SignalError, Slice, slice_signal, timestep_signal

logger = logging.getLogger("scope_patch")

SHORTER_CLIP = (
    "latent frames that had not started were left out, and the attention is not block-causal: the others see a shorter "
    "clip (--no-selective keeps them)"
)

SHARED = "another generation skips blocks of the same model at this moment; run them in turn, or take --level velocity"

_tracing = threading.Lock()
_slices: WeakKeyDictionary[nn.Module, dict[str, Slice]] = WeakKeyDictionary()
"""Traced signals outlive a generation: tracing costs more than a forward of a small model."""


class SegmentGeneration(Generation):
    """One pipeline call, made of segments."""

    def __init__(
        self, architecture: Architecture, scope: Scope, pipeline: Any, record: Record, quorum: Quorum | None = None
    ) -> None:
        super().__init__(architecture, scope, pipeline, record, quorum)
        self._width = 0
        self._widths = Widths(few_enough(architecture.model(pipeline), self.settings))

    def start_segment(self, result: Any, watch: Callable[[Session, int], Interval | None]) -> Any:
        """The schedule function returned: its result with the intervals watched.

        Args:
            watch: called with the session and the iteration whose interval the loop reads.

        Raises NotApplied where the result is not what we know, or the host asks for our rival.
        """
        self.started = True
        session, self.session = self.session, None
        if session is not None:
            session.close()
        self.gather()
        # Asked here, not at the start: pipelines switch their caches on and off while they prepare.
        reason = self.architecture.refuse(self.pipeline, self.model)
        reason = reason or self.obstacle()
        if not reason and self._bypasses and not claim(self.model, self):
            reason = SHARED
        if reason:
            raise NotApplied(reason)
        matrix, index, mask, intervals = _four_things(result)
        self._width = max((end - start for start, end in intervals), default=0)
        host = [(int(start), int(end)) for start, end in intervals]

        def schedule() -> Schedule:
            levels = self.architecture.noise_level(matrix.detach().to("cpu", torch.float64))
            table = Table(matrix, levels, mask, host)
            try:
                table.check()
            except ValueError as problem:
                raise NotApplied(f"the schedule function's tables are not what we know: {problem}") from problem
            made = Schedule.of(table, selective=self.method.selective, widths=self._widths)
            if made.intervals != host and not self.architecture.block_causal(self.model):
                self.record.remark(SHORTER_CLIP)
            if self.settings.widths is None and self._widths.limited:
                self.record.remark(told(self._widths.most or 1))
            return by_step(made) if self.traits.by_step else made

        session = Session(
            schedule,
            self._decider,
            self.predictor,
            self.record,
            keep=self.policy.active,
            calibration=self.scope.calibration,
            memory=self.memory,
            limits=self.method.limits,
            bypass=self._bypass(),
            agree=self.agree,
            verification=self.verification(),
        )
        self.agree(f"segment of {tuple(mask.shape)} under {self.settings.fingerprint}")
        self.session = session
        return matrix, index, mask, WatchedIntervals(intervals, partial(watch, session))

    def read(self, session: Session, iteration: int) -> Interval | None:
        """The loop reads an interval; None where it is to have its own."""
        if session is not self.session:
            # Of a schedule that was made before the newest one. Forwards that follow are no iteration's of that.
            if self.session is not None:
                self.session.leave()
            self.record.remark(LOST)
            return None
        return session.enter(iteration)

    def close(self, error: BaseException | None) -> None:
        release(self.model, self)
        super().close(error)

    @property
    def _bypasses(self) -> bool:
        return self.level != "velocity" and self.policy.active

    def _bypass(self) -> Bypass | None:
        return Bypass(getattr(self.policy, "span", whole)) if self._bypasses else None

    def _decider(self, call: ForwardCall, schedule: Schedule) -> Planned:
        if self.method.placed:
            return self.placed(call, schedule)
        if not self.policy.active or self.signal_name == "none":
            return self.planned(call, schedule)
        if self.signal_name == "expected":
            self.record.signal = EXPECTED
            return self.planned(call, schedule)
        return self.planned(call, schedule, self.signal(call))

    def signal(self, call: ForwardCall) -> Feature:
        """The feature of equation 4: the host's time modulation, or the timestep itself where slicing failed.

        Or, where the policy wants that, the time embedding that the modulation is made from.
        """
        of = self.signal_name
        try:
            # A tracer of torch.fx replaces nn.Module's own methods while it works: two at once would leave one behind.
            with _tracing:
                slices = _slices.setdefault(self.model, {})
                known = slices.get(of)
                if known is None or not known.fits(self.architecture, self.model, call, self._width):
                    known = slices[of] = slice_signal(self.architecture, self.model, call, self._width, of=of)
        except SignalError as error:
            self.record.signal = TIMESTEP
            logger.warning("decisions are made from the timestep itself, because %s", error)
            return timestep_signal
        self.record.signal = SLICED[of]
        return known


def _four_things(result: Any) -> tuple[Tensor, Tensor, Tensor, Sequence[Interval]]:
    """Check what a schedule function returned. Raises NotApplied with what was found instead."""
    known = "(timestep matrix, step index, update mask, intervals)"
    if type(result) is not tuple or len(result) != 4:  # what is more than a tuple would come back as less
        found = f"{len(result)} things" if type(result) is tuple else f"a {type(result).__name__}"
        raise NotApplied(f"the schedule function returned {found}, expected {known}")
    matrix, index, mask, intervals = result
    for name, tensor in (("timestep matrix", matrix), ("step index", index), ("update mask", mask)):
        if not isinstance(tensor, Tensor) or tensor.dim() != 2 or tensor.shape != mask.shape:
            raise NotApplied(f"the schedule function's {name} is not an [iterations, latent frames] tensor")
    if mask.dtype != torch.bool:
        raise NotApplied(f"the schedule function's update mask is {mask.dtype}, expected booleans")
    if not isinstance(intervals, list) or len(intervals) != mask.shape[0]:
        raise NotApplied(f"the schedule function's intervals are not a list of {mask.shape[0]} pairs")
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in intervals):
        raise NotApplied("the schedule function's intervals are not (start, end) pairs")
    return matrix, index, mask, intervals
