"""A host's generator handed on, with something of ours around every stretch of its work."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any


def relayed(
    inner: Generator[Any, Any, Any],
    working: Callable[[], AbstractContextManager[None]],
    ended: Callable[[BaseException | None], None],
) -> Generator[Any, Any, Any]:
    """`yield from inner`, with `working()` entered only while it runs, not while its consumer does.

    Args:
        ended: called once when it has returned (None), raised, or was closed by its consumer.
    """
    error: BaseException | None = None
    resume: Callable[[], Any] = partial(next, inner)
    try:
        while True:
            try:
                with working():
                    made = resume()
            except StopIteration as stop:
                return stop.value
            try:
                sent = yield made
                resume = partial(inner.send, sent)
            except GeneratorExit:
                with working():
                    inner.close()
                raise
            except BaseException as thrown:
                resume = partial(inner.throw, thrown)
    except BaseException as raised:
        error = raised
        raise
    finally:
        ended(error)
