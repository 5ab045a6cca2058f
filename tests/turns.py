"""Threads that take turns at given places, so that every run meets in the same way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

PATIENCE = 60
"""Seconds until a thread that is never given its turn fails."""


class Turns:
    """`run` starts a function a thread; where one of them calls `switch`, the next one goes on."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._order: list[int] = []
        self._turn = 0
        self._number: dict[int, int] = {}
        self.switches = 0

    def switch(self, *_: Any) -> None:
        """It is the next thread's turn. Threads that `run` did not start pass."""
        me = self._number.get(threading.get_ident())
        if me is not None:
            with self._changed:
                self.switches += len(self._order) > 1
                self._pass_on(me)
                self._await(me)

    def run(self, functions: Sequence[Callable[[], Any]]) -> list[Any]:
        """What the functions return; raises what one of them raised."""
        self._order, self._turn = list(range(len(functions))), 0
        made: list[Any] = [None] * len(functions)
        failed: list[BaseException] = []

        def work(me: int) -> None:
            self._number[threading.get_ident()] = me
            try:
                with self._changed:
                    self._await(me)
                made[me] = functions[me]()
            except BaseException as error:
                failed.append(error)
            finally:
                with self._changed:
                    self._pass_on(me)
                    self._order.remove(me)
                self._number.pop(threading.get_ident(), None)

        threads = [threading.Thread(target=work, args=(me,)) for me in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        return made

    def _pass_on(self, me: int) -> None:
        self._turn = self._order[(self._order.index(me) + 1) % len(self._order)]
        self._changed.notify_all()

    def _await(self, me: int) -> None:
        if not self._changed.wait_for(lambda: self._turn == me, PATIENCE):
            raise TimeoutError(f"thread {me} was not given its turn")
