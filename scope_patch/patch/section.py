"""One section of a generation at run time: where its loop is, what its steps come to, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..errors import NotApplied
from ..method.decision import StepDecision
from ..method.forecast import Forecast, Tally
from ..method.history import FRAME_AXIS
from ..method.memory import Memory
from ..method.profile import Calibration
from ..method.schedule import Interval, Schedule, Table
from ..report.record import Segment, active_ranges
from .agreement import RankAgreement
from .branches import Branches
from .frozen import FrozenKeys
from .loops import Loop
from .measured import Verification
from .planning import Planning
from .replay import ChunkReplays, Replays, SolverReplays
from .solver import Step


class Section:
    """Follows the loop through its iterations.

    Args:
        table: makes its table; called at the first iteration, since callers edit the matrices that a schedule function
            returned before they enter the loop.
        key: the section's, among those that are under way.
        calibration: gets the velocities of every forward.
        agreement: asked before anything is left out; None: the DiT is one rank's alone.
        verification: runs some skipped forwards all the same; None: none.

    Attributes:
        replays: takes skipped steps again; None: nothing does.
        frozen: keeps keys and values of finished latent frames, once there is a plan; None: nothing does.
        narrowed: latent frames have been left out.
        early: slots of forwards before its first iteration, of which the record is told then.
    """

    def __init__(
        self,
        planning: Planning,
        loop: Loop,
        table: Callable[[], Table],
        key: int,
        memory: Memory,
        calibration: Calibration | None = None,
        agreement: RankAgreement | None = None,
        verification: Verification | None = None,
    ) -> None:
        self._planning, self._loop, self._table, self._key = planning, loop, table, key
        self.host, self.model, self.record = planning.host, planning.model, planning.record
        self._memory, self._calibration = memory, calibration
        self._agreement, self._verification = agreement, verification
        self._keep = planning.method.policy.active or calibration is not None
        self._span = planning.span
        self.replays: Replays | None = None
        self.frozen: FrozenKeys | None = None
        self.interval: Interval = (0, 0)
        self.schedule: Schedule | None = None
        self._tally = Tally()
        self._called, self._strangers = False, 0
        self.narrowed = False
        self.segment = Segment(0)  # the record's own, once the loop is entered
        self.early = 0
        self._begin()

    def _begin(self) -> None:
        self.iteration: int | None = None
        self._last: int | None = None
        self.verdict: StepDecision | None = None
        self.plan: Sequence[StepDecision] | None = None
        self._forecast: Forecast | None = None
        remark = self.record.remark if self._keep else lambda sentence: None
        moving = self.schedule is not None and self.schedule.moving
        self.branches = Branches(self._planning.method.predictor.keeps, moving, self._memory, remark)

    # --- where the loop is ---

    def enter(self, iteration: int) -> Interval:
        """The loop is at an iteration now. Returns the slots that shall be forwarded, unless they are skipped.

        Raises NotApplied where it does not go through its iterations in order, or does not call the DiT in them.
        """
        before = -1 if self._last is None else self._last
        if iteration and (iteration < before or before < 0):
            after = "at the start" if before < 0 else f"after {before}"
            raise NotApplied(f"the loop reads its intervals out of order: iteration {iteration} {after}")
        if before >= 0 and iteration != before and not self._called:
            raise NotApplied(f"the loop went on to iteration {iteration} before the DiT was called in a way we know")
        if self._verification is not None and iteration != self.iteration:
            self._verification.settle()
        if self.schedule is None:
            self.schedule = self._planning.schedule(self._table)
            self._new_segment(self.schedule)
        elif iteration < before:  # the host runs the same schedule again: nothing of the last pass may leak into it
            self._new_segment(self.schedule)
        if iteration != self._last:
            if self._last is not None and self.schedule.context_changed(iteration, self._last):
                self._forget()
            self._note_replays()
            self.verdict, self._forecast = None, None
            self.branches.enter(iteration)
        self.iteration = self._last = iteration
        interval = self.schedule.intervals[iteration]
        self.interval = interval if self.frozen is None else self.frozen.narrow(interval)
        if self.interval != self.schedule.baseline[iteration]:
            self.narrowed = True
            self._agree(f"iteration {iteration}: latent frames {self.interval}")
        return self.interval

    def leave(self) -> None:
        """It is not known any more where the loop is: forwards are the host's own until an interval is read again.

        They go by unseen, so that the history is not what was planned for: it starts anew.
        """
        self.iteration = None
        self._forget()

    def forget(self) -> None:
        """Let go of every tensor, but for the latents without which a forward under way would lack its context."""
        self._note_replays()
        self._forget()
        self._begin()
        if self.replays is not None:
            self.replays.off = True

    def _forget(self) -> None:
        self.branches.forget()
        if self.replays is not None:
            self.replays.forget()
        if self.frozen is not None:
            self.frozen.forget()

    def close(self) -> None:
        """The loop is over: let go of every tensor, and read what was counted on the device.

        Whoever keeps the host's exception keeps its frames, and with them what ours hold: that is emptied.
        """
        self.branches.forget()
        self._begin()
        if self.replays is not None:
            self._note_replays()
            self.replays.close()
        if self.frozen is not None:
            self.frozen.close()
        self.frozen = None
        if self._verification is not None:
            self._verification.settle()
        if self.schedule is not None:
            for name, count in self._tally.read(self.schedule.mask).items():
                self.record.guard(name, count)

    def _agree(self, what: str) -> None:
        """Before anything is left out. Raises NotApplied where the ranks that share the DiT do not all go along."""
        if self._agreement is not None:
            self._agreement.require(what)

    # --- its steps ---

    def step(self, step: Step, solver: Any, velocity: Tensor, latents: Tensor) -> Tensor:
        """A solver of the host's is about to step. Returns the latents that it is to get (see `SolverReplays`)."""
        if not isinstance(self.replays, SolverReplays) or self.iteration is None:
            return latents
        branches = self.branches.called if self._computed(self.iteration) else None
        return self.replays.before(step, solver, velocity, latents, self.iteration, branches)

    def stepped(self, solver: Any, latents: Any) -> None:
        """It has, and this came of it."""
        if isinstance(self.replays, SolverReplays) and isinstance(latents, Tensor):
            self.replays.after(solver, latents)

    def integrate(self, latents: Tensor, velocity: Tensor, given: int) -> None:
        """The host is about to integrate the slots of the present iteration; latents are corrected in place.

        Args:
            latents, velocity: [batch, channels, frames, height, width], the clean prefix included.
            given: so many slots of the video are not to be touched.
        """
        schedule, iteration, replays = self.schedule, self.iteration, self.replays
        if schedule is None or iteration is None or not isinstance(replays, ChunkReplays):
            return
        (start, end), prefix, frames = schedule.intervals[iteration], schedule.clean_prefix(iteration), schedule.frames
        for slot in range(max(start, given), min(end, start + self._computed(iteration))):
            part = (FRAME_AXIS, (slot - start + prefix) * frames, frames)
            replays.integrate(slot, iteration, latents.narrow(*part), velocity.narrow(*part), self.branches.called)

    def _computed(self, iteration: int) -> int:
        """How far into its interval velocities were computed in the present iteration; 0: not at all.

        Latent frames in front of what was forwarded have finished, and are not integrated.
        """
        assert self.schedule is not None
        interval, verdict = self.schedule.intervals[iteration], self.verdict
        return 0 if verdict is None or not verdict.runs else verdict.forwarded[1] - interval[0]

    # --- what is told of it ---

    def _new_segment(self, schedule: Schedule) -> None:
        self._begin()
        self.frozen = None
        self._note_replays()
        frames, active = schedule.frames, active_ranges(schedule.mask.tolist(), schedule.frames)
        self.segment = Segment(len(schedule), selective=schedule.selective, note=schedule.note, active=active)
        self.segment.frames, self.segment.chunk = schedule.mask.shape[1] * frames, frames if schedule.moving else 0
        self.replays = self._planning.replays(schedule, self._loop.joint)
        self._looks = self._loop.looks(schedule)
        self.record.segments.append(self.segment)
        self.count(self.early, self.early)
        self.early = 0
        if self._verification is not None:
            self._verification.begin(schedule, self.segment)

    def _note_replays(self) -> None:
        """Once an iteration: there are as many steps in it as latent frames."""
        if self.replays is not None:
            self.record.replay_bytes_peak = max(self.record.replay_bytes_peak, self.replays.bytes)
            self.segment.again = len(self.replays.taken)

    def count(self, baseline: int, computed: int, run: int = 0, skipped: int = 0) -> None:
        """Slots that the host alone would compute, and that are; and runs of the network."""
        assert self.schedule is not None
        frames = self.schedule.frames
        self.segment.slots_baseline += frames * baseline
        self.segment.slots_computed += frames * computed
        self.record.forwards_run += run
        self.record.forwards_skipped += skipped
