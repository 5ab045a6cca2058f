"""One image under way, scale by scale: what each call of a block comes to, and what is kept for those skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import NotApplied, UsageError
from ..hosts.infinity import Decided, Image, InfinityShape
from ..method.decision import StepDecision
from ..method.history import Grid, GridHistory, detailed, resample
from ..method.schedule import Interval, Schedule
from ..report.record import SCALES
from .session import Session
from .velocity import ForwardCall


@dataclass
class BlockCall:
    """One call of a block.

    Attributes:
        layer: which block.
        arguments: what it runs with.
        output: what the host gets without it; None: it runs.
        chosen: hidden states [rows, tokens, channels] of the rows that run, and the tokens that do, whose output is put
            there; None: all tokens run.
        rest: hidden states of the rows that do not run; None: all run. `apart`: what theirs differ by from the others'
            output, at the last block, where a guidance that follows needs them.
    """

    layer: int
    arguments: Mapping[str, Any]
    output: Tensor | None = None
    chosen: tuple[Tensor, Tensor] | None = None
    rest: Tensor | None = None
    apart: Tensor | None = None

    def restore(self, output: Tensor) -> Tensor:
        """What the host gets: all tokens of all rows."""
        if self.chosen is not None:
            hidden, index = self.chosen
            output = hidden.index_copy_(1, index, output.to(hidden.dtype))
        if self.rest is None:
            return output
        return torch.cat((output, self.rest if self.apart is None else output - self.apart))


class ScaleSession(Session):
    """A section whose iterations are scales; its one slot is the image.

    Attributes:
        scale, grid, octave: where it is, the rows and columns there, log2 of the side.
        action: what is done there.
    """

    def prepare(self, names: Sequence[str], shape: InfinityShape, image: Image, decide: Callable[[], Decided]) -> None:
        """What is known before the first scale. Args: names, the parameters of a block that we read or change."""
        self.names, self.shape, self.image, self._settle = names, shape, image, decide

    def _begin(self) -> None:
        super()._begin()
        self._stack, self._middle = GridHistory(), GridHistory()
        self._logits: tuple[Tensor, Grid] | None = None
        self._guidance: tuple[Tensor, Grid] | None = None  # what conditional rows have more than unconditional ones
        self._input: Tensor | None = None  # of the stack, at the present scale
        self._inner: Tensor | None = None  # of its middle blocks
        self._index: Tensor | None = None

    def open(self, scale: int, hidden: Tensor, arguments: Mapping[str, Any]) -> None:
        """The host goes on to a scale. Raises NotApplied where its tokens are not those of the schedule."""
        interval = self.enter(scale)
        assert self.schedule is not None
        if hidden.shape[1] != self.image.tokens[scale]:
            raise NotApplied(f"scale {scale + 1} has {hidden.shape[1]} tokens, expected {self.image.tokens[scale]}")
        self._called = True
        if self.verdict is None:
            self.verdict = self._decide(ForwardCall(arguments, hidden, hidden), self.schedule, scale, interval)
        self.scale, self.grid, self.octave = scale, self.image.grids[scale], self.image.octaves()[scale]
        self.action = self.decided.actions[scale]
        self._input, self._inner, self._index = hidden, None, None

    def _decide(self, call: ForwardCall, schedule: Schedule, iteration: int, interval: Interval) -> StepDecision:
        if self.plan is None:
            try:
                self.decided = self._settle()
            except UsageError as problem:
                raise NotApplied(str(problem)) from problem
            self.plan = [action.verdict for action in self.decided.actions]
            self.record.planned.append(self.decided.summary)
            if self.decided.target is not None:
                self.record.signal = "sides of the scales"
            for remark in self.decided.remarks:
                self.record.remark(remark)
            self._agree(f"plan {self.decided.actions}")
        verdict, action = super()._decide(call, schedule, iteration, interval), self.decided.actions[iteration]
        if not action.runs or action.share < 1 or action.single:
            self._agree(f"scale {iteration + 1}: {action}")
        return verdict

    def _new_segment(self, schedule: Schedule) -> None:
        super()._new_segment(schedule)
        self.segment.steps = SCALES

    # --- one block ---

    def call(self, layer: int, block: Any, arguments: Mapping[str, Any]) -> BlockCall:
        """What a call of a block comes to."""
        action, hidden = self.action, arguments[self.names[0]]
        if action.runs:
            made = self._run(layer, block, arguments, hidden)
        else:
            made = BlockCall(layer, arguments, self._skipped(hidden) if layer == self.shape.layers - 1 else hidden)
        if layer == 0:  # now that nothing of ours can fail before it, the scale is counted
            rows, tokens = len(hidden), self.image.tokens[self.scale]
            inner, layers = self.shape.middle[1] - self.shape.middle[0], self.shape.layers
            each = (action.kept(tokens) * inner + tokens * (layers - inner)) / layers
            computed = round(each * (self.image.batch if action.single else rows)) if action.runs else 0
            self.count(rows * tokens, computed, run=int(action.runs), skipped=int(not action.runs))
        return made

    def _run(self, layer: int, block: Any, arguments: Mapping[str, Any], hidden: Tensor) -> BlockCall:
        """A block runs: on all there is, without the unconditional rows, or on some of its tokens."""
        x, norms, captions, positions, _ = self.names
        made, batch = BlockCall(layer, given := dict(arguments)), self.image.batch
        first, last = self.shape.middle
        if self.action.single and len(hidden) > batch:
            hidden, made.rest = hidden[:batch], hidden[batch:]
            given[norms] = arguments[norms][:batch]
            tokens, bounds, longest = arguments[captions]  # how long they are is known without a look at the device
            given[captions] = tokens[: self.image.text[0]], bounds[: batch + 1], longest
            if block.sa.cached_k is not None:
                block.sa.cached_k, block.sa.cached_v = block.sa.cached_k[:batch], block.sa.cached_v[:batch]
            if layer == self.shape.layers - 1 and self.image.cfg[self.scale] != 1:
                kept = self._guidance
                made.apart = torch.zeros_like(hidden) if kept is None else resample(*kept, self.grid)
        else:
            widen(block, hidden)
        given[x] = hidden
        if layer == first:
            self._inner = hidden
        if self.action.mode == "S" and first <= layer < last:
            self._choose(made, given, x, positions)
        return made

    def _choose(self, made: BlockCall, given: dict[str, Any], x: str, positions: str) -> None:
        """Some tokens go through a middle block, with positions of their own; the others wait for the last of these."""
        hidden, tokens = given[x], self.image.tokens[self.scale]
        if self._index is None:
            self._index = detailed(hidden, self.grid, self.action.kept(tokens))
        whole = hidden.clone()
        made.chosen = whole, self._index
        if made.layer == self.shape.middle[1] - 1:
            found = self._middle.estimate(self.octave, self.grid, predict=True)
            if found is not None:
                whole[: len(found)] += found[: len(hidden)].to(hidden.dtype)
        given[x] = hidden.index_select(1, self._index)
        key = str(tuple(given["scale_schedule"]))
        table, start = given[positions][key], sum(self.image.tokens[: self.scale])
        own = table[..., start : start + tokens, :].index_select(-2, self._index)
        given[positions] = {key: torch.cat((table[..., :start, :], own), dim=-2)}

    def _skipped(self, hidden: Tensor) -> Tensor:
        """What the stack returns where it does not run: what went in, and the residual that is taken for its own."""
        if self.action.mode not in "CP":
            return hidden  # for logits or codes that are not made of it
        residual = self._stack.estimate(self.octave, self.grid, predict=self.action.mode == "P")
        if residual is None:
            raise NotApplied("a scale is to be skipped before any was computed")
        rows = min(len(residual), len(hidden))
        return torch.cat((hidden[:rows] + residual[:rows].to(hidden.dtype), hidden[rows:]))

    # --- what is kept ---

    def ran(self, call: BlockCall, output: Tensor, stop: Callable[[], None] | None) -> None:
        """A block has run; what later scales need of it is kept. Args: stop, what times it."""
        if stop is not None:
            stop()
        later, batch = self.decided.actions[self.scale + 1 :], self.image.batch
        if call.layer == self.shape.middle[1] - 1 and self._inner is not None and any(a.mode == "S" for a in later):
            self._middle.record(self.octave, self.grid, output[: len(self._inner)] - self._inner)
        if call.layer == self.shape.layers - 1:
            rows = batch if self.action.single and call.apart is None else len(output)
            if any(action.mode in "CP" for action in later) and self._input is not None:
                self._stack.record(self.octave, self.grid, output[:rows] - self._input[:rows])
            if any(action.single for action in later) and self.image.doubled and rows > batch:
                self._guidance = output[:batch] - output[batch:], self.grid
            self._input = self._inner = None
        extra = [pair[0].nbytes for pair in (self._logits, self._guidance) if pair is not None]
        held = self._stack.bytes + self._middle.bytes + sum(extra)
        self.record.history_bytes_peak = max(self.record.history_bytes_peak, held)

    def computed(self, logits: Tensor) -> None:
        """Logits were made; kept where a later scale is given them."""
        if any(action.mode == "L" for action in self.decided.actions[self.scale + 1 :]):
            self._logits = logits, self.grid

    def logits(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Logits in place of those that the head makes of its first argument; None where it makes them."""
        if self.action.mode != "L":
            return None
        if self._logits is None:
            raise NotApplied("logits are to be reused before any were made")
        found, rows = resample(*self._logits, self.grid), len(next(iter(arguments.values())))
        return found[:rows] if len(found) >= rows else torch.cat((found, found))

    def codes(self, codes: Tensor) -> Tensor | None:
        """Codes in place of those that were drawn; None where it is these."""
        return torch.zeros_like(codes) if self.action.mode == "Z" else None


def widen(block: Any, hidden: Any) -> None:
    """Give the unconditional rows of a block's keys and values what the conditional ones have, if they were left out:
    before a forward of all rows, of a later scale that is guided, or of the host's own after we have failed."""
    attention: Any = getattr(block, "sa", None)
    keys = getattr(attention, "cached_k", None)
    if keys is not None and len(hidden) == 2 * len(keys):
        attention.cached_k = torch.cat((keys, keys))
        attention.cached_v = torch.cat((attention.cached_v, attention.cached_v))
