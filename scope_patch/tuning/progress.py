"""One line on stderr: what is under way, and about how long it will still take; without a terminal a line a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from ..compare.read import extra


class Progress:
    """`with Progress() as progress:`; `told` a run begins, `tick` time goes by.

    Attributes: left, seconds that all remaining runs will take, the present one with them; None where nobody knows.
    """

    def __init__(self) -> None:
        self.left: Callable[[], float | None] = lambda: None
        self._bar: Any = None
        self._begin, self._words = time.monotonic(), ""

    def __enter__(self) -> Progress:
        if sys.stderr is not None and sys.stderr.isatty():
            tqdm = extra("tqdm", "tqdm").tqdm
            self._bar = tqdm(bar_format="{desc}", dynamic_ncols=True, file=sys.stderr, leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def told(self, words: str) -> None:
        """A run begins."""
        self._begin, self._words = time.monotonic(), words
        if self._bar is None and sys.stderr is not None:
            print(self._line(), file=sys.stderr, flush=True)
        self.tick()

    def tick(self) -> None:
        """Time goes by."""
        if self._bar is not None:
            self._bar.set_description_str(self._line())

    def _line(self) -> str:
        spent, left = time.monotonic() - self._begin, self.left()
        words = f"scope_patch: {self._words}" + (f", {clock(spent)}" if spent >= 1 else "")
        return words if left is None else f"{words}; about {clock(max(left - spent, 1))} left"


def clock(seconds: float) -> str:
    """`12 s`, `3 min`, `1.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
