"""Loops whose steps are scales of an image: all blocks of a stack are called in turn at each, on a grid that grows.

There is no velocity and no scheduler. What says where the loop is, is an argument of every block; what is skipped, is
the stack (or what a scale adds); so the seams are the blocks, what makes logits of their output, and what makes codes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import NotApplied
from . import source
from .loops import Loop
from .seams import LOOP, Check, Seam

if TYPE_CHECKING:
    from ..hosts.infinity import Decided, Image, InfinityShape
    from ..method.resolved import Method
    from ..method.schedule import Table
    from .bind import Binding
    from .generation import Generation
    from .host import Entry
    from .stack import BlockCall, ScaleSession


@dataclass(frozen=True)
class Scales(Loop):
    """Every step is a scale: `for m in blocks: x = m(x, ..., scale_ind)`, then logits, a draw, and codes.

    The method that makes an image has its captions, its grids and its guidance as arguments, so that all is decided
    before the first scale.

    Attributes:
        block: (module, class) of a block, and `parameters`, its forward's names: hidden states, conditioning of the
            norms, captions, position table, number of the scale.
        asked: parameters of the method that makes an image, from which all is decided.
        blocks: attribute of the model that lists them, in order.
        logits: the method that makes logits of what the last block returns.
        codes: (module, class, method) of what makes codes of drawn bits, and `codec`, arguments -> its instance.
        read: (model, arguments of the call) -> (dimensions, what is asked for).
        decide: (method, dimensions, what is asked for) -> what is done at every scale.
        table: what is asked for -> the scales as a table.
    """

    block: tuple[str, str]
    parameters: tuple[str, str, str, str, str]
    asked: tuple[str, ...]
    blocks: str
    logits: str
    codes: tuple[str, str, str]
    codec: Callable[[Mapping[str, Any]], Any]
    read: Callable[[Any, Mapping[str, Any]], tuple[InfinityShape, Image]]
    decide: Callable[[Method, InfinityShape, Image], Decided]
    table: Callable[[Image], Table]
    ranks = ()
    unverifiable = "a skipped scale is no forward that could be run beside it"

    def __str__(self) -> str:
        return f"scales: {self.block[1]} is called for every block, and its {self.parameters[-1]} says at which scale"

    def seams(self, entry: Entry) -> tuple[Seam, ...]:
        return (
            Seam(LOOP, *self.block, "forward", ("self", *self.parameters), ("Module",), patched="__call__"),
            Seam(LOOP, entry.module, entry.owner, self.logits),  # the DiT's own seam: whoever comes first has it
            Seam(LOOP, *self.codes),
        )

    def checks(self, entry: Entry, owner: ast.ClassDef) -> Iterator[Check]:
        for name in entry.methods:
            method = source.find_method(owner, name)
            if method is not None:
                wanted = (*self.parameters, self.blocks, self.logits, self.codes[-1])
                missing = [word for word in wanted if word not in source.words(method)]
                found = f"no {', '.join(missing)} in its text" if missing else ""
                yield Check(f"{entry.owner}.{name} loops over scales as we know it", not missing, found)
                unknown = [word for word in self.asked if word not in source.parameters(method)]
                found = f"no parameter {', '.join(unknown)}" if unknown else ", ".join(self.asked)
                yield Check(f"{entry.owner}.{name} is asked for what we read", not unknown, found)

    def opened(self, binding: Binding, generation: Generation) -> None:
        generation.place = {id(block): layer for layer, block in enumerate(getattr(generation.model, self.blocks))}

    def session(self) -> type[ScaleSession]:
        from .stack import ScaleSession

        return ScaleSession

    def entered(self, binding: Binding, seam: Seam, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        if seam.owner == self.block[1]:
            return self._block(binding, seam, wrapped, instance, args, kwargs)
        if seam.attribute == self.logits:
            given = partial(binding.arguments, seam.owner, seam.attribute, args, kwargs)
            kept = binding.on_loop(lambda generation: self._at(generation).logits(given()), of=instance)
            if kept is not None:
                return kept
            made = wrapped(*args, **kwargs)
            binding.on_loop(lambda generation: self._at(generation).computed(made), of=instance)
            return made
        made = wrapped(*args, **kwargs)
        changed = binding.on_loop(lambda generation: self._codes(generation, instance, made))
        return made if changed is None else changed

    def _codes(self, generation: Generation, codec: Any, codes: Any) -> Any:
        """Codes in place of those that the codec made; None where it is these, or another one's."""
        return self._at(generation).codes(codes) if codec is self.codec(generation.arguments) else None

    def _block(self, binding: Binding, seam: Seam, wrapped: Any, block: Any, args: Any, kwargs: Any) -> Any:
        """One block: skipped, run on some of its tokens or rows, or as the host calls it. What it returns is always of
        the host's shape, so that whatever fails, the next block can be the host's own."""
        given = partial(binding.arguments, seam.owner, seam.attribute, args, kwargs)
        served = binding.on_loop(lambda generation: self._serve(generation, block, given()))
        if served is None:
            found = binding.innermost
            if found is not None:
                binding.guard(found, lambda: self._own(found, block, given()))
            return wrapped(*args, **kwargs)
        session, call = served
        if call.output is not None:
            return call.output
        stop = binding.on_loop(lambda generation: generation.stopwatch.start())
        output = call.restore(wrapped(**call.arguments))
        binding.on_loop(lambda generation: session.ran(call, output, stop))
        return output

    def _serve(
        self, generation: Generation, block: Any, arguments: Mapping[str, Any]
    ) -> tuple[ScaleSession, BlockCall] | None:
        layer = generation.place.get(id(block))
        if layer is None:
            generation.elsewhere += 1
            return None
        hidden, _, _, _, scale = (arguments[name] for name in self.parameters)
        if layer == 0:
            generation.calls += 1
            if generation.session is None:
                try:
                    shape, image = self.read(generation.model, generation.arguments)
                except (AttributeError, LookupError, TypeError, ValueError) as error:
                    raise NotApplied(f"what the image is asked for cannot be read: {error!r}") from error
                generation.session = generation.begin(partial(self.table, image), f"{len(image.grids)} scales")
                decide = partial(self.decide, generation.method, shape, image)
                self._at(generation).prepare(self.parameters, shape, image, decide)
            self._at(generation).open(scale, hidden, generation.arguments)
        return (session := self._at(generation)), session.call(layer, block, arguments)

    def _own(self, generation: Generation, block: Any, arguments: Mapping[str, Any]) -> None:
        """A block of the host's own, in a generation that has been ours: rows that were left out are there again."""
        layer = (generation.place or {}).get(id(block))
        if layer is not None:
            from .stack import widen

            widen(block, arguments[self.parameters[0]])
        if layer == 0:
            generation.own(arguments)

    def _at(self, generation: Generation) -> ScaleSession:
        session = generation.session
        assert isinstance(session, self.session())
        return session
