"""One image under way, scale by scale: what each call of a block comes to, and what is kept for those skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import NotApplied, UsageError
from ..hosts.infinity import Action, Decided, Image, InfinityShape
from ..method.decision import StepDecision
from ..method.grids import Grid, GridHistory, detailed, resample
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
        base: hidden states [rows, tokens, channels] of the rows that run, in which the output of the tokens `index` is
            put; None: all tokens run.
        rest: hidden states of the rows that do not run; None: all run. `apart`: what theirs differ by from the others'
            output, at the last block, where a guidance that follows needs them.
    """

    layer: int
    arguments: Mapping[str, Any]
    output: Tensor | None = None
    base: Tensor | None = None
    index: Tensor | None = None
    rest: Tensor | None = None
    apart: Tensor | None = None

    def restore(self, output: Tensor) -> Tensor:
        """What the host gets: all tokens of all rows."""
        if self.base is not None and self.index is not None:
            output = self.base.index_copy_(1, self.index, output.to(self.base.dtype))
        if self.rest is None:
            return output
        return torch.cat((output, self.rest if self.apart is None else output - self.apart))


class ScaleSession(Session):
    """A section whose iterations are scales; its one slot is the image."""

    names: tuple[str, ...]
    shape: InfinityShape
    image: Image
    decided: Decided | None = None

    def prepare(
        self, names: tuple[str, ...], shape: InfinityShape, image: Image, decide: Callable[[], Decided]
    ) -> None:
        """What is known before the first scale. Args: names, the parameters of a block that we read or change."""
        self.names, self.shape, self.image, self._settle = names, shape, image, decide

    def _begin(self) -> None:
        super()._begin()
        self._stack, self._middle = GridHistory(), GridHistory()
        self._logits: tuple[Grid, Tensor] | None = None
        self._guidance: tuple[Grid, Tensor] | None = None  # what conditional rows have more than unconditional ones
        self._input: Tensor | None = None  # of the stack, at the present scale
        self._inner: Tensor | None = None  # of its middle blocks
        self._index: Tensor | None = None
        self._captions: Any = None

    def open(self, scale: int, hidden: Tensor, arguments: Mapping[str, Any]) -> None:
        """The host goes on to a scale. Raises NotApplied where its tokens are not those of the schedule."""
        interval = self.enter(scale)
        assert self.schedule is not None
        if hidden.shape[1] != self.image.tokens[scale]:
            raise NotApplied(f"scale {scale + 1} has {hidden.shape[1]} tokens, expected {self.image.tokens[scale]}")
        self._called = True
        call = ForwardCall(arguments, hidden, hidden)
        if self.verdict is None:
            self.verdict = self._decide(call, self.schedule, scale, interval)
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
        verdict = super()._decide(call, schedule, iteration, interval)
        if not self.action.runs or self.action.share < 1 or self.action.single:
            self._agree(f"scale {iteration + 1}: {self.action}")
        return verdict

    def _new_segment(self, schedule: Schedule) -> None:
        super()._new_segment(schedule)
        self.segment.steps = SCALES

    @property
    def action(self) -> Action:
        """What is done at the present scale."""
        return self._actions[self.iteration or 0]

    @property
    def _actions(self) -> tuple[Action, ...]:
        assert self.decided is not None
        return self.decided.actions

    @property
    def grid(self) -> Grid:
        """Of the present scale."""
        return self.image.grids[self.iteration or 0]

    def _counted(self, made: BlockCall, rows: int) -> BlockCall:
        """The same; at the first block, once nothing of ours can fail before it, the scale is counted."""
        if made.layer == 0:
            action, tokens = self.action, self.image.tokens[self.iteration or 0]
            first, last = self.shape.middle
            left = action.kept(tokens) if action.mode == "S" else tokens
            each = (left * (last - first) + tokens * (self.shape.layers - last + first)) / self.shape.layers
            computed = round(each * (self.image.batch if action.single else rows)) if action.runs else 0
            self._count(rows * tokens, computed, run=int(action.runs), skipped=int(not action.runs))
        return made

    # --- one block ---

    def call(self, layer: int, block: Any, arguments: Mapping[str, Any]) -> BlockCall:
        """What a call of a block comes to."""
        action, end = self.action, self.shape.layers - 1
        name = dict(zip(("hidden", "norms", "captions", "positions", "scale"), self.names, strict=True))
        hidden: Tensor = arguments[name["hidden"]]
        if not action.runs:
            made = BlockCall(layer, arguments, self._skipped(hidden) if layer == end else hidden)
            return self._counted(made, len(hidden))
        made, rows = BlockCall(layer, given := dict(arguments)), len(hidden)
        batch = self.image.batch
        if action.single and len(hidden) > batch:
            made.rest = hidden[batch:]
            hidden = hidden[:batch]
            given[name["norms"]] = arguments[name["norms"]][:batch]
            given[name["captions"]] = self._conditional(arguments[name["captions"]])
            if block.sa.cached_k is not None:
                block.sa.cached_k, block.sa.cached_v = block.sa.cached_k[:batch], block.sa.cached_v[:batch]
            if layer == end and self.image.cfg[self.iteration or 0] != 1:
                made.apart = self._difference(hidden)
        else:
            widen(block, hidden)
        first, last = self.shape.middle
        if layer == first:
            self._inner = hidden
        if action.mode == "S" and first <= layer < last:
            self._choose(made, hidden, given, name["positions"], layer in (first, last - 1))
        else:
            given[name["hidden"]] = hidden
        return self._counted(made, rows)

    def _conditional(self, captions: tuple[Any, ...]) -> tuple[Any, ...]:
        """Captions of the conditional rows alone: how long they are is known without a look at the device."""
        if self._captions is None or self._captions[0] is not captions:
            tokens, bounds, longest = captions
            own = tokens[: self.image.text[0]], bounds[: self.image.batch + 1], longest
            self._captions = captions, own
        return self._captions[1]  # type: ignore[no-any-return]

    def _difference(self, like: Tensor) -> Tensor:
        if self._guidance is None:
            return torch.zeros_like(like)
        return resample(self._guidance[1], self._guidance[0], self.grid)

    def _choose(self, made: BlockCall, hidden: Tensor, given: dict[str, Any], positions: str, border: bool) -> None:
        """Some tokens go through a middle block, with positions of their own; the others wait for the last of these."""
        scale = self.iteration or 0
        if self._index is None:
            self._index = detailed(hidden, self.grid, self.action.kept(self.image.tokens[scale]))
        made.index, made.base = self._index, hidden.clone()
        if made.layer == self.shape.middle[1] - 1:
            found = self._middle.estimate(self.image.octaves()[scale], self.grid, predict=True)
            if found is not None:
                made.base[: len(found)] += found[: len(hidden)].to(hidden.dtype)
        given[self.names[0]] = hidden.index_select(1, self._index)
        key = str(tuple(given["scale_schedule"]))
        table, start = given[positions][key], sum(self.image.tokens[:scale])
        own = table[..., start : start + self.image.tokens[scale], :].index_select(-2, self._index)
        given[positions] = {key: torch.cat((table[..., :start, :], own), dim=-2)}

    def _skipped(self, hidden: Tensor) -> Tensor:
        """What the stack returns where it does not run: what went in, and the residual that is taken for its own."""
        if self.action.mode not in "CP":
            return hidden  # for logits or codes that are not made of it
        scale = self.iteration or 0
        residual = self._stack.estimate(self.image.octaves()[scale], self.grid, predict=self.action.mode == "P")
        if residual is None:
            raise NotApplied("a scale is to be skipped before any was computed")
        rows = min(len(residual), len(hidden))
        return torch.cat((hidden[:rows] + residual[:rows].to(hidden.dtype), hidden[rows:]))

    # --- what is kept ---

    def ran(self, call: BlockCall, output: Tensor, stop: Callable[[], None] | None) -> None:
        """A block has run; what later scales need of it is kept. Args: stop, what times it."""
        if stop is not None:
            stop()
        scale = self.iteration or 0
        later, octave, batch = self._actions[scale + 1 :], self.image.octaves()[scale], self.image.batch
        rows = batch if self.action.single and call.apart is None else len(output)
        if call.layer == self.shape.middle[1] - 1 and self._inner is not None and any(a.mode == "S" for a in later):
            own = output[: len(self._inner)]
            self._middle.record(octave, self.grid, own - self._inner)
        if call.layer == self.shape.layers - 1:
            if any(action.mode in "CP" for action in later) and self._input is not None:
                self._stack.record(octave, self.grid, output[:rows] - self._input[:rows])
            if any(action.single for action in later) and self.image.doubled and rows > batch:
                self._guidance = self.grid, output[:batch] - output[batch:]
            self._input = self._inner = None
        extra = [pair[1] for pair in (self._logits, self._guidance) if pair is not None]
        held = self._stack.bytes + self._middle.bytes + sum(x.numel() * x.element_size() for x in extra)
        self.record.history_bytes_peak = max(self.record.history_bytes_peak, held)

    def computed(self, logits: Tensor) -> None:
        """Logits were made; kept where a later scale is given them."""
        if any(action.mode == "L" for action in self._actions[(self.iteration or 0) + 1 :]):
            self._logits = self.grid, logits

    def logits(self, hidden: Tensor) -> Tensor | None:
        """Logits in place of those of the head; None where it makes them."""
        if self.action.mode != "L":
            return None
        if self._logits is None:
            raise NotApplied("logits are to be reused before any were made")
        found = resample(self._logits[1], self._logits[0], self.grid)
        return found[: len(hidden)] if len(found) >= len(hidden) else torch.cat((found, found))

    def codes(self, codes: Tensor) -> Tensor | None:
        """Codes in place of those that were drawn; None where it is these."""
        return torch.zeros_like(codes) if self.action.mode == "Z" else None


def widen(block: Any, hidden: Any) -> None:
    """Give the unconditional rows of a block's keys and values what the conditional ones have, where they
    were left out.

    Before a forward of all rows: of a later scale that is guided, or of the host's own after we have failed.
    """
    attention = getattr(block, "sa", None)
    keys = getattr(attention, "cached_k", None)
    if attention is not None and keys is not None and len(hidden) == 2 * len(keys):
        attention.cached_k = torch.cat((keys, keys))
        attention.cached_v = torch.cat((attention.cached_v, attention.cached_v))
