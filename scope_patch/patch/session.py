"""What becomes of each forward of a section: the only place where "forward or not" is decided."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import NotApplied
from ..method.decision import StepDecision
from ..method.forecast import Forecast
from ..method.frozen import narrowed
from ..method.history import FRAME_AXIS
from ..method.schedule import Interval, Schedule
from . import bypass
from .branches import Branch, conditioning
from .frozen import LOOSE
from .section import Section
from .velocity import (
    ForwardCall,
    PendingForward,
    asked_of,
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


class Session(Section):
    """Decides once an iteration, for all CFG branches alike, and serves skipped forwards from the history."""

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
        if call.timestep.dim() == 2 and (entries := call.timestep.shape[1]) != slots:
            raise NotApplied(f"the DiT's timestep has {entries} entries for {slots} latent frames or chunks")
        branch = self.branches.find(conditioning(call.arguments, self.host.dit))
        if branch is None:
            self.record.remark(LOST)
            self.leave()
            return None, None
        branch.meet(call.latents)
        if self.verdict is None:
            self.verdict = self._decide(call, schedule, iteration, interval)
        output, pending = self._carry_out(call, self.verdict, branch, schedule, iteration)
        if pending is not None and self.frozen is not None:
            pending = self.frozen.pending(pending, call)
            if pending.front and branch.loose:
                self.record.remark(LOOSE)
        if pending is None or pending.bypassed or pending.arguments is not None or pending.attending is not None:
            self._agree(f"iteration {iteration}: {self.verdict.forwarded} forwarded")
        host = schedule.baseline[iteration]
        networks, baseline = self.host.runs(self.model, call.arguments, host[1] - host[0])
        if pending is None or pending.bypassed:
            self.count(baseline, 0, skipped=networks)
        else:
            networks, size = self.host.runs(self.model, pending.arguments or call.arguments, slots + pending.front)
            self.count(baseline, size, run=networks)
        return output, pending

    def _decide(self, call: ForwardCall, schedule: Schedule, iteration: int, interval: Interval) -> StepDecision:
        """What is done in an iteration, noted in the record."""
        if iteration in self._looks:
            updated = self.check_timestep(call) != 0
            if iteration == 0 and len(updated) == schedule.mask.shape[1] and not schedule.moving:
                schedule.mask.logical_and_(updated)  # given latent frames stay as they are, whatever the table says
        method = self._planning.method
        if self.plan is None:
            plan, self.frozen = self._planning.verdicts(call, schedule, self._key, self._verification)
            if self._agreement is not None:
                self._agree(f"plan {_fingerprint(plan)}")
            self.plan = plan
            if self.frozen is not None:
                self.frozen.narrow(interval)
        verdict = self.plan[iteration]
        if self._verification is not None:
            verdict = self._verification.step(iteration, verdict, interval)
        if self.frozen is not None:
            verdict = narrowed(verdict, interval[0])
        skips = verdict.forwarded != interval or verdict.instead is not None
        parts = self.branches.parts(interval) if skips else []
        if parts:
            with torch.inference_mode():  # small tables, which nobody differentiates: less to dispatch
                known, most = self.branches.know(parts), method.largest_change
                self._forecast = Forecast(parts, known, schedule, iteration, method.predictor, most, self._tally)
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

    def _carry_out(
        self, call: ForwardCall, verdict: StepDecision, branch: Branch, schedule: Schedule, iteration: int
    ) -> tuple[Any, PendingForward | None]:
        """What this call comes to: an output from the history, or a forward, of all slots or of the first of them."""
        interval, prefix, last = self.interval, schedule.clean_prefix(iteration), verdict.forwarded[1]
        whole_forward = PendingForward(branch, iteration, interval, call.latents.shape, prefix)
        if self._span is not None:
            span = self._span(iteration, len(schedule))
            bypass.stand_in(whole_forward, span, verdict, self._forecast, self.record)
            return None, whole_forward
        if verdict.instead is not None:
            given = (interval, prefix, interval[0], schedule, self._forecast, verdict.instead)
            whole_forward.predicted = assemble_velocity(call, branch, *given)
        if last == interval[1]:
            return None, whole_forward
        whole = assemble_velocity(call, branch, interval, prefix, last, schedule, self._forecast, verdict)
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
        return None, PendingForward(branch, iteration, verdict.forwarded, call.latents.shape, prefix, whole, arguments)

    def observe(self, pending: PendingForward, output: Any) -> None:
        """After a forward that ran: keep the velocities."""
        schedule = self.schedule
        if schedule is None or not self._keep:
            return
        if self._span is not None:
            bypass.note(pending, schedule, self.record)
        else:
            self._keep_velocities(pending, output, schedule)
        self.record.history_bytes_peak = max(self.record.history_bytes_peak, self._memory.bytes)
        if self.frozen is not None:
            self.record.frozen_bytes_peak = max(self.record.frozen_bytes_peak, self.frozen.bytes)

    def _keep_velocities(self, pending: PendingForward, output: Any, schedule: Schedule) -> None:
        if pending.attending is not None and self.frozen is not None:
            self.frozen.note(pending)
            if self.frozen.trouble:
                self.record.remark(self.frozen.trouble)
        velocity = velocity_of(output)
        velocity = velocity.narrow(FRAME_AXIS, pending.front, velocity.shape[FRAME_AXIS] - pending.front)
        frames = schedule.frames * (pending.slots[1] - pending.slots[0] + pending.clean_prefix)
        batch, _, _, height, width = pending.shape
        if velocity.dim() != 5 or velocity[:, 0].shape != (batch, frames, height, width):
            wanted = f"[{batch}, channels, {frames}, {height}, {width}]"
            raise NotApplied(f"the DiT returned a velocity of shape {list(velocity.shape)}, expected {wanted}")
        if pending.predicted is not None and self._verification is not None:
            self._verification.compare(unpack(pending.predicted, schedule), unpack(velocity, schedule))
        keep_velocity(pending, velocity, schedule)
        pending.branch.output_type = type(output)
        if self._calibration is not None:
            for part in pending.branch.parts(pending.slots):
                self._calibration.note(list(part.history.anchors), schedule.mask[pending.iteration])

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
        return asked_of(output, pending.shape) if pending.front else output

    def check_timestep(self, call: ForwardCall) -> Tensor:
        """Look whether the DiT gets the timesteps of the present iteration; waits for the device.

        Where slots are chunks of a window, each is compared; else all are in step, and the last is: those in front may
        be given, at timestep 0. Returns what it gets behind the clean prefix, on the CPU. Raises NotApplied where it
        gets others.
        """
        schedule, iteration = self.schedule, self.iteration
        assert schedule is not None and iteration is not None
        start, end = schedule.intervals[iteration]
        wanted = schedule.timesteps[iteration, start:end]
        given = call.timestep if call.timestep.dim() == 2 else call.timestep[:, None]
        every = found = given[0, schedule.clean_prefix(iteration) :].to("cpu", wanted.dtype)
        if not schedule.moving:
            wanted, found = wanted[-1:], found[-1:]
        rounding, unit = (torch.finfo(given.dtype).eps, 0.0) if given.is_floating_point() else (0.0, 1.0)
        if not torch.allclose(found, wanted, rtol=max(rounding, 1e-4), atol=max(unit, 1e-4)):
            raise NotApplied(
                f"the DiT is called with the timesteps {found.tolist()} at step {iteration}, "
                f"but the host's own methods say {wanted.tolist()}"
            )
        return every

    def recount(self, pending: PendingForward) -> None:
        """After a forward that was counted as skipped: its blocks may have run all the same."""
        if pending.bypassed and pending.standin is not None and not pending.standin.spared:
            self.count(0, pending.slots[1] - pending.slots[0], run=1, skipped=-1)


def _fingerprint(plan: Sequence[StepDecision]) -> str:
    """Of what a plan does. Alike on all ranks by construction, unless one could not read what another could: then one
    would wait in a forward."""
    told = [
        (each.forwarded, each.instead is None, [(slots, one.mode) for slots, one in each.decisions.items()])
        for each in plan
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:8]
