"""One section at run time: the only place where "forward or not" is decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import NotApplied
from ..method.decision import StepDecision
from ..method.forecast import LARGEST_CHANGE, Forecast, Tally
from ..method.frozen import narrowed
from ..method.history import FRAME_AXIS
from ..method.memory import Memory
from ..method.predictors import Predictor
from ..method.profile import Calibration
from ..method.schedule import Interval, Schedule
from ..report.record import GenerationRecord, Segment, active_ranges
from . import bypass
from .branches import Branch, Branches, conditioning
from .bypass import Span
from .frozen import LOOSE, FrozenKeys
from .host import Host
from .measured import Verification
from .replay import ChunkReplays, Replays, SolverReplays
from .solver import Step
from .velocity import (
    ForwardCall,
    PendingForward,
    assemble_velocity,
    complete_velocity,
    keep_velocity,
    like_output,
    unpack,
    velocity_of,
)

LOST = "some forwards belonged to no iteration that the loop was seen to enter: they were the host's own"

MOST_STRANGERS = 6
"""Calls in a row that shall be skipped and have no history; a callback that changes the text makes one a branch."""


class Session:
    """Decides once an iteration, for all CFG branches alike, and serves skipped forwards from the history.

    Args:
        host, model: whose forwards these are.
        schedule: makes the section's schedule; called at the first iteration, since callers edit the matrices that a
            schedule function returned before they enter the loop.
        plan: (first call, schedule) -> every iteration's decision; called with the first DiT call.
        keep: whether velocities are kept.
        calibration: gets the velocities of every forward.
        largest_change: of a usable prediction.
        memory: of the generation's histories.
        span: which blocks are bypassed at the residual level; None: skipped forwards are not called.
        agree: called before anything is left out, with what it is; raises NotApplied where other ranks do not go along.
        verification: runs some skipped forwards all the same; None: none.
        freeze: what keeps keys and values of finished latent frames, called once there is a plan; None: nothing does.
        looks: schedule -> iterations at which the DiT's timesteps are compared with the schedule's.
        replays: schedule -> what takes skipped steps again; None: nothing does.
    """

    def __init__(
        self,
        host: Host,
        model: Any,
        schedule: Callable[[], Schedule],
        plan: Callable[[ForwardCall, Schedule], Sequence[StepDecision]],
        predictor: Predictor,
        record: GenerationRecord,
        *,
        keep: bool = True,
        calibration: Calibration | None = None,
        largest_change: float = LARGEST_CHANGE,
        memory: Memory | None = None,
        span: Span | None = None,
        agree: Callable[[str], None] = lambda what: None,
        verification: Verification | None = None,
        freeze: Callable[[], FrozenKeys | None] = lambda: None,
        looks: Callable[[Schedule], set[int]] = lambda schedule: set(),
        replays: Callable[[Schedule], Replays | None] = lambda schedule: None,
    ) -> None:
        self.host, self.model = host, model
        self._make_schedule, self._make_plan, self._find_looks = schedule, plan, looks
        self.predictor, self.record = predictor, record
        self._keep, self._calibration = keep or calibration is not None, calibration
        self._largest_change, self._memory = largest_change, memory or Memory()
        self._span, self._agree, self._verification = span, agree, verification
        self._make_replays = replays
        self.replays: Replays | None = None
        self._freeze = freeze
        self.frozen: FrozenKeys | None = None
        self.interval: Interval = (0, 0)
        self.schedule: Schedule | None = None
        self._looks: set[int] = set()
        self._forecast: Forecast | None = None
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
        remark = self.record.remark if self._keep else lambda sentence: None
        moving = self.schedule is not None and self.schedule.moving
        self.branches = Branches(self.predictor.keeps, moving, self._memory, remark)

    def __len__(self) -> int:
        """Iterations; 0 as long as none was entered."""
        return 0 if self.schedule is None else len(self.schedule)

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
            self.schedule = self._make_schedule()
            self._looks = self._find_looks(self.schedule)
            self._begin()
            self._new_segment(self.schedule)
        elif self._last is not None and iteration < self._last:
            self._begin()  # the host runs the same schedule again: nothing of the last pass may leak into it
            self.frozen = None
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

    def step(self, step: Step, solver: Any, velocity: Tensor, latents: Tensor) -> Tensor:
        """A solver of the host's is about to step. Returns the latents that it is to get (see `SolverReplays`)."""
        replays, iteration = self.replays, self.iteration
        if not isinstance(replays, SolverReplays) or replays.off or iteration is None:
            return latents
        branches = self.branches.called if self._computed(iteration) else None
        return replays.before(step, solver, velocity, latents, iteration, branches)

    def stepped(self, solver: Any, latents: Any) -> None:
        """It has, and this came of it."""
        if isinstance(self.replays, SolverReplays) and not self.replays.off and isinstance(latents, Tensor):
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

    def count_own(self, slots: int) -> None:
        """A forward of the host's own over so many slots runs."""
        self._count(slots, slots)

    def recount(self, pending: PendingForward) -> None:
        """After a forward that was counted as skipped: its blocks may have run all the same."""
        if pending.bypassed and not pending.spared:
            self._count(0, pending.slots[1] - pending.slots[0], run=1, skipped=-1)

    def leave(self) -> None:
        """It is not known any more where the loop is: forwards are the host's own until an interval is read again.

        They go by unseen, so that the history is not what was planned for: it starts anew.
        """
        self.iteration = None
        self._forget()

    def _forget(self) -> None:
        self.branches.forget()
        if self.replays is not None:
            self.replays.forget()
        if self.frozen is not None:
            self.frozen.forget()

    def forget(self) -> None:
        """Let go of every tensor, but for the latents without which a forward under way would lack its context."""
        self._note_replays()
        self._forget()
        self._begin()
        self._forecast = None
        if self.replays is not None:
            self.replays.off = True

    def serve(self, call: ForwardCall) -> tuple[Any, PendingForward | None]:
        """Before a forward: (output, None) to return instead of it, or (None, pending) to run it.

        (None, None) means the call is none of ours: it is outside the loop, or not over the slots we know of.
        """
        schedule, iteration = self.schedule, self.iteration
        if schedule is None or iteration is None:
            return None, None
        self._called = True
        slots = call.slots // schedule.frames
        interval, prefix = self.interval, schedule.clean_prefix(iteration)
        if slots != interval[1] - interval[0] + prefix:
            self.record.guard("shape")
            return None, None
        if call.timestep.dim() == 2 and call.timestep.shape[1] != slots:
            raise NotApplied(
                f"the DiT's timestep has {call.timestep.shape[1]} entries for {slots} latent frames or chunks"
            )
        branch = self.branches.find(conditioning(call.arguments, self.host.dit))
        if branch is None:
            self.record.remark(LOST)
            self.leave()
            return None, None
        branch.meet(call.latents)
        if self.verdict is None:
            self.verdict = self._decide(call, schedule, iteration, interval)
        output, pending = self._carry_out(call, self.verdict, branch, interval)
        if pending is not None and self.frozen is not None:
            pending = self.frozen.pending(pending, call)
            if pending.front and branch.loose:
                self.record.remark(LOOSE)
        if pending is None or pending.bypassed or pending.arguments is not None or pending.attending is not None:
            self._agree(f"iteration {iteration}: {self.verdict.forwarded} forwarded")
        host = schedule.baseline[iteration]
        networks, baseline = self.host.runs(self.model, call.arguments, host[1] - host[0])
        if pending is None or pending.bypassed:
            self._count(baseline, 0, skipped=networks)
        else:
            networks, size = self.host.runs(self.model, pending.arguments or call.arguments, slots + pending.front)
            self._count(baseline, size, run=networks)
        return output, pending

    def observe(self, pending: PendingForward, output: Any) -> None:
        """After a forward that ran: keep the velocities."""
        if self._span is not None and self.schedule is not None:
            bypass.note(pending, self.schedule, self.record)
            self._note_memory()
            return
        if self.schedule is None or not self._keep:
            return
        if pending.attending is not None and self.frozen is not None:
            self.frozen.note(pending)
            if self.frozen.trouble:
                self.record.remark(self.frozen.trouble)
        velocity = _asked(pending, output)
        frames = self.schedule.frames * (pending.slots[1] - pending.slots[0] + pending.clean_prefix)
        batch, height, width = pending.size
        if velocity.dim() != 5 or velocity[:, 0].shape != (batch, frames, height, width):
            wanted = f"[{batch}, channels, {frames}, {height}, {width}]"
            raise NotApplied(f"the DiT returned a velocity of shape {list(velocity.shape)}, expected {wanted}")
        if pending.predicted is not None and self._verification is not None:
            self._verification.compare(unpack(pending.predicted, self.schedule), unpack(velocity, self.schedule))
        keep_velocity(pending, velocity, self.schedule)
        pending.branch.output_type = type(output)
        if self._calibration is not None:
            for part in pending.branch.parts(pending.slots):
                self._calibration.note(list(part.history.anchors), self.schedule.mask[pending.iteration])
        self._note_memory()

    def stands(self, call: ForwardCall) -> bool:
        """Whether the DiT still gets the timesteps of the present iteration; waits for the device."""
        assert self.schedule is not None and self.iteration is not None
        try:
            check_timestep(call, self.schedule, self.iteration)
        except NotApplied:
            return False
        return True

    def complete(self, pending: PendingForward, output: Any) -> Any:
        """What the host gets for a forward of some of its slots, the velocity of all; or of more, or with kept keys.

        None where what came out cannot be used. Raises NotApplied, or RuntimeError of torch's, where the output is not
        what we know.
        """
        assert self.schedule is not None
        if pending.whole is not None:
            return complete_velocity(pending, velocity_of(output), self.schedule)
        attending = pending.attending
        if attending is not None and attending.kept:
            if not attending.sound:
                return None
            self._agree(f"iteration {pending.iteration}: attended")
        return like_output(_asked(pending, output), type(output)) if pending.front else output

    def close(self) -> None:
        """The loop is over: let go of every tensor, and read what was counted on the device.

        Whoever keeps the host's exception keeps its frames, and with them what ours hold: that is emptied.
        """
        self.branches.forget()
        self._begin()
        self._forecast = None
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

    def _new_segment(self, schedule: Schedule) -> None:
        self._note_replays()
        self.segment = Segment(len(schedule), selective=schedule.selective, note=schedule.note)
        self.segment.frames = schedule.mask.shape[1] * schedule.frames
        self.segment.active = active_ranges(schedule.mask.tolist(), schedule.frames)
        self.replays = self._make_replays(schedule)
        self.segment.chunk = schedule.frames if schedule.moving else 0
        self.record.segments.append(self.segment)
        self.count_own(self.early)
        self.early = 0
        if self._verification is not None:
            self._verification.begin(schedule, self.segment)

    def _note_replays(self) -> None:
        """Once an iteration: there are as many steps in it as latent frames."""
        if self.replays is not None:
            self.record.replay_bytes_peak = max(self.record.replay_bytes_peak, self.replays.bytes)
            self.segment.again = len(self.replays.taken)

    def _note_memory(self) -> None:
        self.record.history_bytes_peak = max(self.record.history_bytes_peak, self._memory.bytes)
        if self.frozen is not None:
            self.record.frozen_bytes_peak = max(self.record.frozen_bytes_peak, self.frozen.bytes)

    def _count(self, baseline: int, computed: int, run: int = 0, skipped: int = 0) -> None:
        assert self.schedule is not None
        frames = self.schedule.frames
        self.segment.slots_baseline += frames * baseline
        self.segment.slots_computed += frames * computed
        self.record.forwards_run += run
        self.record.forwards_skipped += skipped

    def _decide(self, call: ForwardCall, schedule: Schedule, iteration: int, interval: Interval) -> StepDecision:
        if iteration in self._looks:
            updated = check_timestep(call, schedule, iteration) != 0
            if iteration == 0 and len(updated) == schedule.mask.shape[1] and not schedule.moving:
                schedule.mask.logical_and_(updated)  # given latent frames stay as they are, whatever the table says
        if self.plan is None:
            self.plan = self._make_plan(call, schedule)
            self.frozen = self._freeze()
            if self.frozen is not None:
                self.frozen.narrow(interval)
        verdict = self.plan[iteration]
        if self._verification is not None:
            verdict = self._verification.step(iteration, verdict, interval)
        if self.frozen is not None:
            verdict = narrowed(verdict, interval[0])
        if verdict.forwarded != interval or verdict.instead is not None:
            self._forecast = self._foreseen(schedule, iteration, interval)
        prefix, last = schedule.clean_prefix(iteration), verdict.forwarded[1]
        start, end = interval[0] - prefix, last if last > interval[0] else interval[1]
        each = "".join(verdict.mode_of(slot).value for slot in range(*interval)) if schedule.moving else ""
        # All of it at once: where one of the above fails, none is noted, and the report stays of one piece.
        self.segment.modes.append(verdict.mode.value)
        self.segment.reasons.append(verdict.reason)
        self.segment.intervals.append((start * schedule.frames, end * schedule.frames))
        if schedule.moving:
            self.segment.slots.append("F" * prefix + each)
        return verdict

    def _foreseen(self, schedule: Schedule, iteration: int, interval: Interval) -> Forecast | None:
        """The forecast of an iteration in which something is skipped; None where there is nothing to make it from."""
        parts = self.branches.parts(interval)
        if not parts:
            return None
        with torch.inference_mode():  # small tables, which nobody differentiates: less to dispatch
            known = self.branches.know(parts)
            return Forecast(parts, known, schedule, iteration, self.predictor, self._largest_change, self._tally)

    def _carry_out(
        self, call: ForwardCall, verdict: StepDecision, branch: Branch, interval: Interval
    ) -> tuple[Any, PendingForward | None]:
        """What this call comes to: an output from the history, or a forward, of all slots or of the first of them."""
        assert self.schedule is not None and self.iteration is not None
        prefix, last = self.schedule.clean_prefix(self.iteration), verdict.forwarded[1]
        size = (call.latents.shape[0], *call.latents.shape[3:])
        whole_forward = PendingForward(branch, self.iteration, interval, size, prefix)
        if self._span is not None:
            span = self._span(self.iteration, len(self.schedule))
            bypass.stand_in(whole_forward, span, verdict, self._forecast, self.record)
            return None, whole_forward
        if verdict.instead is not None:
            given = (interval, prefix, interval[0], self.schedule, self._forecast, verdict.instead)
            whole_forward.predicted = assemble_velocity(call, branch, *given)
        if last == interval[1]:
            return None, whole_forward
        whole = assemble_velocity(call, branch, interval, prefix, last, self.schedule, self._forecast, verdict)
        if whole is None:
            self.record.guard("branch")
            self._strangers += 1
            if self._strangers >= MOST_STRANGERS:
                raise NotApplied(
                    f"{self._strangers} calls of the DiT in a row had a conditioning that was not there before, so "
                    "nothing is known of their guidance branches; change the prompt less often"
                )
            return None, whole_forward
        self._strangers = 0
        if last == interval[0] and not prefix:
            return like_output(whole, branch.output_type), None
        if self.host.narrow is None:
            raise NotImplementedError("this host's forwards cannot be narrowed")
        arguments = self.host.narrow(call.arguments, 0, last - interval[0] + prefix)
        return None, PendingForward(branch, self.iteration, verdict.forwarded, size, prefix, whole, arguments)


def _asked(pending: PendingForward, output: Any) -> Tensor:
    """The velocity of what the host asked for."""
    velocity = velocity_of(output)
    return velocity.narrow(FRAME_AXIS, pending.front, velocity.shape[FRAME_AXIS] - pending.front)


def check_timestep(call: ForwardCall, schedule: Schedule, iteration: int) -> Tensor:
    """Look whether the DiT gets the timesteps of the schedule; waits for the device.

    Where slots are chunks of a window, each is compared; else all are in step, and the last is: those in front may be
    given, at timestep 0. Returns what it gets behind the clean prefix, on the CPU. Raises NotApplied where it gets
    others.
    """
    start, end = schedule.intervals[iteration]
    wanted = schedule.timesteps[iteration, start:end]
    given = call.timestep if call.timestep.dim() == 2 else call.timestep[:, None]
    every = found = given[0, schedule.clean_prefix(iteration) :].to("cpu", wanted.dtype)
    if not schedule.moving:
        wanted, found = wanted[-1:], found[-1:]
    rounding = torch.finfo(given.dtype).eps if given.is_floating_point() else 0.0
    unit = 0.0 if given.is_floating_point() else 1.0
    if not torch.allclose(found, wanted, rtol=max(rounding, 1e-4), atol=max(unit, 1e-4)):
        raise NotApplied(
            f"the DiT is called with the timesteps {found.tolist()} at step {iteration}, "
            f"but the host's own methods say {wanted.tolist()}"
        )
    return every
