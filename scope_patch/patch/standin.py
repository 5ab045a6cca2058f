"""A module in the place of a host's blocks, for the length of one forward: it adds a residual, or runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..method.schedule import Interval


@dataclass(frozen=True)
class Place:
    """Where a stand-in goes: a model's modules, its own blocks, and what replaces them for the length of a forward."""

    modules: dict[str, nn.Module | None]
    own: nn.ModuleList
    replaced: nn.ModuleList


class StandIn(nn.Module):
    """Stands for consecutive blocks, which the host calls with the hidden states first, and which return them.

    Whatever goes wrong in it, the blocks run and the host gets what they make.

    Args:
        added: the residual (what comes out of the last block less what goes into the first), which is added in place of
            running them; None: they are run, and theirs is noted.
        span: which blocks [first, last); None: all.

    Attributes:
        noted: the residual of the blocks that ran, a new tensor; None where none ran.
        ran: the blocks have run.
        error: what went wrong.
    """

    def __init__(self, added: Tensor | None, span: Interval | None = None) -> None:
        super().__init__()
        self.added, self.span = added, span
        self.noted: Tensor | None = None
        self.ran = False
        self.error: Exception | None = None
        self.blocks = nn.ModuleList()
        self._thread = 0

    def place(self, model: nn.Module, name: str) -> Place:
        """What is to be put where to take the place of the model's blocks; nothing is put there yet."""
        own = model._modules[name]
        assert isinstance(own, nn.ModuleList)
        first, last = self.span or (0, len(own))
        blocks = list(own)
        self.blocks = nn.ModuleList(blocks[first:last])  # so that the model keeps all its parameters meanwhile
        self._thread = threading.get_ident()
        return Place(model._modules, own, nn.ModuleList([*blocks[:first], self, *blocks[last:]]))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if args:
            return self._forward(lambda block, hidden: block(hidden, *args[1:], **kwargs), args[0])
        name, hidden = next(iter(kwargs.items()))  # all by keyword, as the blocks' own first parameter is called
        return self._forward(lambda block, hidden: block(**{**kwargs, name: hidden}), hidden)

    def _forward(self, call: Callable[[nn.Module, Any], Any], hidden: Any) -> Any:
        if threading.get_ident() != self._thread:
            return self._run(call, hidden)  # another thread uses the model meanwhile, and is not served by us
        if self.added is not None:
            try:
                if self.added.shape == hidden.shape:
                    return (hidden + self.added).to(hidden.dtype)
            except Exception as error:  # out of memory, for one: the host shall not suffer from it
                self.error = error
        out = self._run(call, hidden)
        self.ran = True
        try:
            # No block of these hosts writes into its input; the host itself holds on to it meanwhile.
            self.noted = (out - hidden).detach()
        except Exception as error:
            self.error = error
        return out

    def _run(self, call: Callable[[nn.Module, Any], Any], hidden: Any) -> Any:
        for block in self.blocks:
            hidden = call(block, hidden)
        return hidden
