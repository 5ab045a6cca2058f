"""One forward in which self-attention also sees kept keys and values, and hands out some of its own.

Nothing of the model is replaced: hooks say which block is attending, and a mode of torch's, in this thread alone, sees
the call of `scaled_dot_product_attention`. Both are there for the length of one forward.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
SDPA = torch.nn.functional.scaled_dot_product_attention
TOKENS = -2
"""Axis of queries, keys and values, [batch, heads, tokens, channels]."""

Chunks = list[list[tuple[Tensor, Tensor]]]
"""Of every block, keys and values of consecutive latent frames."""


class UnknownAttentionError(Exception):
    """It is called in a way that we do not know."""


@dataclass(frozen=True)
class Extent:
    """The latent frames of a forward. Attributes: kept, in front of it; frames, forwarded; noted, of these, the first
    whose keys and values are handed out; causal, attention is."""

    kept: int
    frames: int
    noted: int
    causal: bool


class Attending(TorchFunctionMode):
    """For the length of a forward: `with attending:`.

    Args:
        modules: the self-attention of every block, in their order.
        rotary: name and position of the rotary embedding among their arguments.
        shifted: the host's rotary embedding -> that of the latent frames which are forwarded.
        chunks: what is kept, of every block; empty lists where nothing is.

    Attributes:
        noted: of every block that has attended, keys and values of its first latent frames.
        error: what went wrong: the host then had its own keys alone, and what came out cannot be used.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        rotary: tuple[str, int],
        shifted: Callable[[Any], Any],
        chunks: Chunks,
        extent: Extent,
    ) -> None:
        super().__init__()
        self._modules, self._rotary, self._shifted = modules, rotary, shifted
        self._chunks, self.extent = chunks, extent
        self.noted: list[tuple[Tensor, Tensor]] = []
        self.error: Exception | None = None
        self._seen = 0
        self._block: int | None = None
        self._given: Any = None
        self._made: Any = None
        self._masks: tuple[Tensor, Tensor] | None = None
        self._thread = threading.get_ident()
        self._hooks: list[Any] = []

    @property
    def sound(self) -> bool:
        """Whether every block has attended once, as it should."""
        return self.error is None and self._seen == len(self._modules)

    def __enter__(self) -> Attending:
        try:
            for block, module in enumerate(self._modules):
                self._hooks.append(module.register_forward_pre_hook(partial(self._begins, block), with_kwargs=True))
                self._hooks.append(module.register_forward_hook(self._ends))
            super().__enter__()  # type: ignore[no-untyped-call]
        except BaseException:
            self._unhook()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._unhook()

    # The host calls these three: whatever is ours in them fails by itself.

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is SDPA and self._block is not None:
            try:
                args, kwargs = self._attend(args, kwargs or {})
            except Exception as error:  # out of memory, for one
                self.error = self.error or error
        return function(*args, **(kwargs or {}))

    def _begins(self, block: int, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Before a block's self-attention."""
        if threading.get_ident() != self._thread:
            return None  # another thread uses the model meanwhile
        self._block = block
        try:
            return self._moved(args, kwargs) if self.extent.kept else None
        except Exception as error:
            self.error = self.error or error
            return None

    def _ends(self, *_: Any) -> None:
        if threading.get_ident() == self._thread:
            self._block = None

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _moved(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with the rotary embedding of where the latent frames are. Made once a forward."""
        name, position = self._rotary
        given = kwargs[name] if name in kwargs else args[position]
        if given is not self._given:
            self._given, self._made = given, self._shifted(given)
        if name in kwargs:
            return args, {**kwargs, name: self._made}
        return (*args[:position], self._made, *args[position + 1 :]), kwargs

    def _attend(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments of attention, with what is kept in front of keys and values.

        Raises UnknownAttentionError.
        """
        block, extent = self._block, self.extent
        named = {**dict(zip(NAMES, args, strict=False)), **kwargs}
        query, key, value = (named[name] for name in NAMES[:3])
        mask, length = named.get(NAMES[3]), key.shape[TOKENS]
        if block != self._seen or (mask is None) == extent.causal or named.get("is_causal"):
            raise UnknownAttentionError(f"block {block} attends in a way that we do not know")
        if length != query.shape[TOKENS] or length % extent.frames:
            raise UnknownAttentionError(
                f"block {block} has {query.shape[TOKENS]} queries, {length} keys, {extent.frames} frames"
            )
        if extent.noted:
            tokens = length // extent.frames * extent.noted
            own = [each.narrow(TOKENS, 0, tokens).detach().clone() for each in (key, value)]
            self.noted.append((own[0], own[1]))
        if extent.kept:
            keys, values = zip(*self._chunks[block], strict=True)
            named["key"], named["value"] = torch.cat([*keys, key], TOKENS), torch.cat([*values, value], TOKENS)
            if mask is not None:
                named["attn_mask"] = self._wider(mask, named["key"].shape[TOKENS])
        self._seen += 1
        return (), named

    def _wider(self, mask: Tensor, keys: int) -> Tensor:
        """A mask [..., queries, queries] as one over all keys: what is kept, all may see. Made once a forward."""
        if self._masks is None or self._masks[0] is not mask:
            more = keys - mask.shape[-1]
            own = mask.new_full((*mask.shape[:-1], more), True if mask.dtype is torch.bool else 0.0)
            self._masks = mask, torch.cat([own, mask], -1)
        return self._masks[1]
