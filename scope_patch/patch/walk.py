"""A host's generator handed on, with something of ours around every stretch of its work."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from .stretch import Stretch


def relayed(
    inner: Generator[Any, Any, Any],
    resumed: Callable[[], Stretch | None],
    ended: Callable[[BaseException | None], Any],
) -> Generator[Any, Any, Any]:
    """`yield from inner`, with us told when it works and when its consumer does.

    Args:
        resumed: called before every stretch of its work, which is said to be over when its consumer works again.
        ended: called once when it has returned (None), raised, or was closed by its consumer.
    """
    error: BaseException | None = None
    resume: Callable[[], Any] = partial(next, inner)
    try:
        while True:
            stretch = resumed()
            try:
                made = resume()
            except StopIteration as stop:
                return stop.value
            finally:
                if stretch is not None:
                    stretch.over = True
            try:
                sent = yield made
                resume = partial(inner.send, sent)
            except GeneratorExit:
                stretch = resumed()
                try:
                    inner.close()
                finally:
                    if stretch is not None:
                        stretch.over = True
                raise
            except BaseException as thrown:
                resume = partial(inner.throw, thrown)
            del made  # it is the consumer's now
    except BaseException as raised:
        error = raised
        raise
    finally:
        ended(error)
        del error, resume  # a traceback that holds this frame must not be held by it
