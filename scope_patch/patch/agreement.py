"""Ranks that share one DiT leave something out together, or not at all.

Such a DiT has collectives in its forward: where one rank skips and another does not, the job hangs. All ranks make the
same plan, but on one of them patching may have failed, or fail later. So before anything is left out every rank says
that it is ready, through the key-value store of the host's own process group: no collective, nothing on a device, and a
rank that is not patched at all need not answer.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from ..errors import NotApplied

YES, NO = "yes", "no"
SHORTEST, LONGEST, GROWTH = 0.0001, 0.05, 1.5
"""Seconds between two looks at the store, and how they grow. Its own waiting cannot be interrupted, and warns."""
_STARTED = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
PATIENCE = 15
"""A rank that has answered once may take so many times longer afterwards: it may be in a long forward."""


class RankAgreement:
    """The agreements of one generation, in order; the outcome of each is the same on all ranks.

    The first to say NO, or to have waited too long, settles an agreement for all; else the last to say YES does.
    After a NO nothing more is asked.

    Args:
        store: torch.distributed.Store of the job.
        name: of the ranks, the same on all of them.
        ranks: how many there are.
        timeout: seconds that the first agreement may take.
        why: how it shows that they share the DiT.

    Attributes:
        over: nothing is left out any more.
        refused: because a rank would not, which ends it for the generations that follow, too.

    Raises RuntimeError where the store does not answer.
    """

    def __init__(self, store: Any, name: str, ranks: int, timeout: float, why: str = "") -> None:
        self._store, self._ranks, self._timeout, self._why = store, ranks, timeout, why
        # Counting generations would not do: a rank may have been patched later than the others.
        self._round_key = f"{name}/round"
        self._round = int(store.compare_set(self._round_key, "", "0"))
        self._name = f"{name}/{self._round}"
        self._number = 0
        self._last: Sequence[str] = ()
        self.over = self.refused = False

    def agree(self, what: str) -> bool:
        """Whether all ranks have come to the same point and go on; ranks that name different ones do not agree."""
        if self.over:
            return False
        self._number += 1
        keys = outcome, ballots, point = [f"{self._name}/{self._number}{part}" for part in ("", "/ballots", "/point")]
        try:
            if self._store.compare_set(point, "", what).decode() != what:
                self._store.compare_set(outcome, "", NO)
            elif self._store.add(ballots, 1) == self._ranks:
                for key in self._last:  # all are here, so all have read the last outcome
                    self._store.delete_key(key)
                self._store.compare_set(outcome, "", YES)
            agreed = self._wait(outcome)
        except RuntimeError:  # the store is gone, and the job with it, or soon
            agreed = False
        self._last = keys
        if self._number == 1:
            self._settled()
        self.over = self.refused = not agreed
        return agreed

    def require(self, what: str) -> None:
        """Raises NotApplied where the ranks do not `agree`."""
        if not self.agree(what):
            raise NotApplied(
                f"the {self._ranks} ranks that share the model ({self._why}) did not agree to leave anything out, so "
                "all run unpatched: one of them is not patched, has other settings, has failed, or took longer than "
                f"{self._timeout:g} s (--rank-timeout)"
            )

    def leave(self, refused: bool = True) -> None:
        """This rank leaves nothing out any more; neither will the others, from their next agreement on.

        Args:
            refused: nor will it in the next generation.
        """
        if self.over:
            return
        self.over, self.refused = True, refused
        with suppress(RuntimeError):
            self._store.compare_set(f"{self._name}/{self._number + 1}", "", NO)
        self._settled()

    def _settled(self) -> None:
        """Whoever comes now belongs to the next generation."""
        with suppress(RuntimeError):
            self._store.compare_set(self._round_key, str(self._round), str(self._round + 1))

    def _wait(self, outcome: str) -> bool:
        """The outcome, once there is one; after too long a wait it is NO, unless another was faster."""
        end, pause = time.monotonic() + self._timeout * (PATIENCE if self._number > 1 else 1), SHORTEST
        while not self._store.check([outcome]):
            if time.monotonic() > end:
                self._store.compare_set(outcome, "", NO)
                break
            time.sleep(pause)
            pause = min(LONGEST, pause * GROWTH)
        return bool(self._store.get(outcome).decode() == YES)


class Agreements:
    """Makes the agreement of every generation of a host.

    Ranks that did not agree once leave nothing out until the next `apply`: one that is not there would be waited for
    at every generation.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._newest: dict[str, RankAgreement] = {}
        self._calls: Counter[str] = Counter()

    def of(self, ranks: Sequence[int], timeout: float, why: str = "") -> RankAgreement | None:
        """The agreement of a new generation; None where the DiT is one rank's alone. `ranks` share it, in order.

        Raises NotApplied where ranks share it and have no way to agree.
        """
        if len(ranks) < 2:
            return None
        name = f"scope_patch/{self._host}/{'-'.join(map(str, ranks))}"
        try:
            made = RankAgreement(_default_store(), name, len(ranks), timeout, why)
        except (RuntimeError, ValueError) as error:
            raise NotApplied(
                f"ranks {', '.join(map(str, ranks))} share the model, and the store of their process group, through "
                f"which they would agree, does not answer ({error}); keep the group until the last video is made"
            ) from error
        if name in self._newest and self._newest[name].refused:
            made.leave()
        self._newest[name] = made
        return made

    def call(self, ranks: Sequence[int]) -> str:
        """The name of a new generation, alike on all ranks that share its DiT; "" where it is one rank's alone.

        Ranks that are started again, or by another torchrun of the job, begin to count anew.
        """
        if len(ranks) < 2:
            return ""
        started = "-".join(os.environ.get(name, "") for name in _STARTED)
        name = f"{self._host}/{'-'.join(map(str, ranks))}/{started}"
        self._calls[name] += 1
        return f"{name}/{self._calls[name]}"

    def forgive(self) -> None:
        """The ranks may try again."""
        self._newest.clear()


def rank() -> int | None:
    """This process's; None where it has none."""
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized():
        return int(dist.get_rank())
    told = os.environ.get("RANK", "")
    return int(told) if told.isdecimal() else None


def _default_store() -> Any:
    """The store of the job's process group, for which torch has no public name."""
    return torch.distributed.distributed_c10d._get_default_store()
