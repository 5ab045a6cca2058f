"""Kept keys and values of finished latent frames, by guidance branch, and the forwards that attend to them.

Which latent frames, and when, `method/frozen.py` says. The latents themselves are kept too: a forward that lacks what
it was to attend to (another prompt, a failure of ours) gets them in front again, and is as long as it always was.

Nothing of the model is replaced: hooks say which block is attending, and a mode of torch's, in this thread alone, sees
the call of `scaled_dot_product_attention`. Both are there for the length of one forward.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..method.frozen import Freezing
from ..method.history import FRAME_AXIS
from ..method.schedule import Interval
from .branches import Branch, Conditioning
from .host import Host
from .velocity import ForwardCall, PendingForward

UNSEEN = "finished latent frames are forwarded along: the model's self-attention was not seen as we know it"
LOOSE = "finished latent frames are forwarded along: what they are conditioned on is another tensor at every step"
LARGER = "finished latent frames are forwarded along: their keys and values are larger than was planned"

NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
SDPA = torch.nn.functional.scaled_dot_product_attention
TOKENS = -2
"""Axis of queries, keys and values, [batch, heads, tokens, channels]."""

Chunks = list[list[tuple[Tensor, Tensor]]]
"""Of every block, keys and values of consecutive latent frames."""


class UnknownAttentionError(Exception):
    """It is called in a way that we do not know."""


class Attending(TorchFunctionMode):
    """For the length of a forward, self-attention also sees kept keys and values, and hands out some of its own.

    Args:
        latents: the host's, of the forward.
        chunks: what is kept, of every block; empty where nothing is.
        kept, frames: latent frames whose keys are kept, in front of the forward, and those that are forwarded.
        first: of these, so many whose keys and values are handed out.

    Attributes:
        noted: of every block that has attended, keys and values of the `first` latent frames.
        error: what went wrong: the host then had its own keys alone, and what came out cannot be used.
    """

    def __init__(
        self, host: Host, model: nn.Module, latents: Tensor, chunks: Chunks, *, kept: int, frames: int, first: int
    ) -> None:
        super().__init__()
        assert host.keys is not None
        self._modules = [block.get_submodule(host.keys.attention) for block in getattr(model, host.dit.blocks)]
        self._rotary, self._shifted = host.keys.rotary, partial(host.keys.shifted, model, latents, kept)
        self._causal, self._chunks = host.keys.block(model) > 0, chunks
        self.kept, self.first, self._frames = kept, first, frames
        self.noted: list[tuple[Tensor, Tensor]] = []
        self.error: Exception | None = None
        self._seen = 0
        self._block: int | None = None
        self._given: Any = None
        self._made: Any = None
        self._masks: tuple[Tensor, Tensor] | None = None
        self._thread = threading.get_ident()

    @property
    def sound(self) -> bool:
        """Whether every block has attended once, as it should."""
        return self.error is None and self._seen == len(self._modules)

    def __enter__(self) -> Attending:
        with ExitStack() as hooks:
            for block, module in enumerate(self._modules):
                hooks.enter_context(module.register_forward_pre_hook(partial(self._begins, block), with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(self._ends))
            super().__enter__()  # type: ignore[no-untyped-call]
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hooks.close()

    # The host calls these three: whatever is ours in them fails by itself.

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is SDPA and self._block is not None:
            try:
                args, kwargs = (), self._attend(args, kwargs or {})
            except Exception as error:  # out of memory, for one
                self.error = self.error or error
        return function(*args, **(kwargs or {}))

    def _begins(self, block: int, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Before a block's self-attention."""
        if threading.get_ident() != self._thread:
            return None  # another thread uses the model meanwhile
        self._block = block
        try:
            return self._moved(args, kwargs) if self.kept else None
        except Exception as error:
            self.error = self.error or error
            return None

    def _ends(self, *_: Any) -> None:
        if threading.get_ident() == self._thread:
            self._block = None

    def _moved(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with the rotary embedding of where the latent frames are. Made once a forward."""
        name, position = self._rotary
        given = kwargs[name] if name in kwargs else args[position]
        if given is not self._given:
            self._given, self._made = given, self._shifted(given)
        if name in kwargs:
            return args, {**kwargs, name: self._made}
        return (*args[:position], self._made, *args[position + 1 :]), kwargs

    def _attend(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of attention by name, with what is kept in front of keys and values.

        Raises UnknownAttentionError.
        """
        block, named = self._block, {**dict(zip(NAMES, args, strict=False)), **kwargs}
        query, key, value, mask = named["query"], named["key"], named["value"], named.get("attn_mask")
        queries, length = query.shape[TOKENS], key.shape[TOKENS]
        if block != self._seen or (mask is None) == self._causal or named.get("is_causal"):
            raise UnknownAttentionError(f"block {block} attends in a way that we do not know")
        if length != queries or length % self._frames:
            raise UnknownAttentionError(f"block {block} has {queries} queries, {length} keys, {self._frames} frames")
        if self.first:
            tokens = length // self._frames * self.first
            self.noted.append((key[..., :tokens, :].detach().clone(), value[..., :tokens, :].detach().clone()))
        if self.kept:
            keys, values = zip(*self._chunks[block], strict=True)
            named["key"], named["value"] = torch.cat([*keys, key], TOKENS), torch.cat([*values, value], TOKENS)
            if mask is not None:
                named["attn_mask"] = self._wider(mask, named["key"].shape[TOKENS])
        self._seen += 1
        return named

    def _wider(self, mask: Tensor, keys: int) -> Tensor:
        """A mask [..., queries, queries] as one over all keys: what is kept, all may see. Made once a forward."""
        if self._masks is None or self._masks[0] is not mask:
            seen = float(mask.dtype is torch.bool)  # else it is added to what attention sees
            self._masks = mask, torch.nn.functional.pad(mask, (keys - mask.shape[-1], 0), value=seen)
        return self._masks[1]


@dataclass
class Kept:
    """Of one branch. Attributes: frames, how many; chunks, keys and values; given, what they are conditioned on."""

    frames: int
    chunks: Chunks
    given: Conditioning


class FrozenKeys:
    """Those of one section.

    Args:
        last: the iteration of the last forward that is planned; it keeps nothing.

    Attributes:
        start: the first latent frame that is forwarded from the next iteration on.
        read: what the loop was told to forward at the present iteration.
        trouble: why no more are kept, or "".
    """

    def __init__(self, host: Host, model: nn.Module, freezing: Freezing, last: int) -> None:
        self.host, self.model, self.freezing, self.last = host, model, freezing, last
        self.start, self.trouble = 0, ""
        self.read: Interval | None = None
        self._kept: WeakKeyDictionary[Branch, Kept] = WeakKeyDictionary()
        self._latents: Tensor | None = None

    @property
    def bytes(self) -> int:
        """On the device, of all branches."""
        pairs = [pair for kept in self._kept.values() for block in kept.chunks for pair in block]
        latents = 0 if self._latents is None else self._latents.nbytes
        return latents + sum(key.nbytes + value.nbytes for key, value in pairs)

    def forget(self) -> None:
        """Let go of keys and values; the next interval that is read begins at the first latent frame again.

        The latents stay: a narrower one may have been read already.
        """
        self._kept.clear()
        self.start = 0

    def close(self) -> None:
        """The section is over: also what a forward that failed still holds is let go of."""
        for kept in self._kept.values():
            for block in kept.chunks:
                block.clear()
        self.forget()
        self._latents = None

    def narrow(self, interval: Interval) -> Interval:
        """The loop reads an interval: what it shall forward of it."""
        if not self.start:
            self._latents = None
        self.read = (self.start, interval[1])
        return self.read

    def pending(self, pending: PendingForward, call: ForwardCall) -> PendingForward:
        """A forward of the interval that was read, with what it attends to and hands out."""
        assert self.read is not None
        start, end = self.read
        target = start if self.trouble or pending.iteration >= self.last else self.freezing.finished[pending.iteration]
        branch = pending.branch
        kept = self._kept.get(branch)
        if kept is None or kept.frames != start or branch.given.differs(kept.given):
            # Let go of them, and of those of the branch that was in this one's place of the step before.
            for other in [*self._kept]:
                if other is branch or other.seen[1] == branch.seen[1]:
                    del self._kept[other]
            kept = None
        before = self._latents
        if target > start and (before is None or before.shape[FRAME_AXIS] < target):  # once for all branches
            own = call.latents.narrow(FRAME_AXIS, 0, target - start).detach()
            self._latents = own.clone() if before is None else torch.cat([before, own], FRAME_AXIS)
        attended = 0 if kept is None else start
        arguments = None if attended == start else self.widened(call.arguments)
        first = 0 if self.trouble else target - attended
        if not attended and not first:
            return replace(pending, arguments=arguments, front=start)
        chunks, frames = [] if kept is None else kept.chunks, end - attended
        attending = Attending(self.host, self.model, call.latents, chunks, kept=attended, frames=frames, first=first)
        return replace(pending, arguments=arguments, front=start - attended, attending=attending)

    def note(self, pending: PendingForward) -> None:
        """After it. Raises what went wrong in it, where nobody could be told.

        What came out is of use only where it was to attend to nothing, or all went well.
        """
        attending = pending.attending
        assert attending is not None
        if not attending.sound:
            error = attending.error or UnknownAttentionError("the model's self-attention was not seen in every block")
            if attending.kept or not isinstance(error, UnknownAttentionError):
                raise error
            self._stop(UNSEEN)
        elif attending.first:
            kept = self._kept.setdefault(pending.branch, Kept(0, [[] for _ in attending.noted], pending.branch.given))
            for chunks, own in zip(kept.chunks, attending.noted, strict=True):
                chunks.append(own)
            kept.frames += attending.first
            if self.bytes > kept.frames * self.freezing.size:
                self._stop(LARGER)
            else:
                self.start = kept.frames

    def widened(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """Those of a forward of the interval that was read, with the latent frames in front that it lacks.

        None where it lacks none, or is over something else.
        """
        dit = self.host.dit
        latents, timestep = arguments.get(dit.latents), arguments.get(dit.timestep)
        if self.read is None or self._latents is None or not self.read[0] or not isinstance(latents, Tensor):
            return None
        start, end = self.read
        if latents.shape[FRAME_AXIS] != end - start or not isinstance(timestep, Tensor) or timestep.dim() != 2:
            return None
        latents = torch.cat([self._latents.narrow(FRAME_AXIS, 0, start).to(latents.dtype), latents], FRAME_AXIS)
        timestep = torch.cat([timestep.new_zeros(timestep.shape[0], start), timestep], 1)
        return {**arguments, dit.latents: latents, dit.timestep: timestep}

    def _stop(self, why: str) -> None:
        self.trouble = why
        self.forget()
        if self.read is None or not self.read[0]:
            self._latents = None
