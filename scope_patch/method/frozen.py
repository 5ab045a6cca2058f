"""Finished latent frames whose keys and values are kept: how many at which iteration, from tables alone.

Under block-causal attention nothing that a finished latent frame sees changes any more, and neither do its keys and
values at timestep 0. A recompute keeps those of the latent frames that have finished by then, which it forwards a last
time; from there on only the rest is forwarded. So what a recompute costs hangs on the one before it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, compress

import torch

from ..values import FrozenKeys
from .decision import StepDecision
from .schedule import Schedule

ALONG = "finished latent frames are forwarded along"
SHARE = 10
"""One part in so many of a device's memory is for kept keys and values, where nobody says how much."""


@dataclass(frozen=True)
class Freezing:
    """What is kept in one section.

    Attributes:
        finished: leading latent frames that a recompute at every iteration would leave kept.
        size: bytes of one of them, all guidance branches together.
        short: some would not fit.
    """

    finished: Sequence[int]
    size: int
    short: bool = False

    @property
    def any(self) -> bool:
        """Whether there is something to keep, be there room for it or not."""
        return self.short or any(self.finished)

    def remark(self, why: str, block: int) -> str:
        """What the user should know, or "".

        Args: why, nothing can be kept; block, latent frames of a causal block, 0 where attention is full.
        """
        if why:
            return f"{ALONG}: {why}"
        if self.short:
            most = max(self.finished)
            many = f"but for the first {most} " if most else ""
            return f"{ALONG}, {many}since no more keys fit (--frozen-keys; {self.size / 1e6:.4g} MB a latent frame)"
        full = "under full attention that is approximate"
        return "" if block else f"the others see finished latent frames by keys and values that are kept; {full}"

    @classmethod
    def of(cls, schedule: Schedule, block: int, size: int, limit: int) -> Freezing:
        """Those that are clean (timestep and noise level 0) from an iteration on, and all in front of them.

        Args:
            block: latent frames of a causal block, which are kept together; 0 under full attention.
            size, limit: bytes that one latent frame takes, all guidance branches together; bytes in all.
        """
        block = max(block, 1)
        most = limit // max(size, 1) // block * block
        clean = ~schedule.mask & (schedule.timesteps == 0) & (schedule.noise_levels == 0)
        stays = clean.flip(0).cummin(dim=0).values.flip(0)
        whole = [count // block * block for count in stays.long().cummin(dim=1).values.sum(dim=1).tolist()]
        return cls([min(count, most) for count in whole], size, max(whole, default=0) > most)

    def starts(self, recomputed: Sequence[bool]) -> list[int]:
        """Of every iteration, the first latent frame that is forwarded if it is recomputed; given which ones are."""
        after = accumulate((self.finished[i] if run else 0 for i, run in enumerate(recomputed)), max, initial=0)
        return list(after)[:-1]

    def held(self, recomputed: Sequence[bool]) -> int:
        """Bytes at the most: what the last recompute needs; it keeps nothing itself."""
        return self.size * max(compress(self.starts(recomputed), recomputed), default=0)


def allowed(wanted: FrozenKeys, device: torch.device) -> int:
    """Bytes that keys and values may take: what the user says, or a share of a CUDA device's memory or the machine's.

    Of the memory there is in all: the same on every run, whatever else is on it. 0 where its size cannot be had.
    """
    if wanted.size is not None:
        return wanted.size
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // SHARE
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // SHARE
    except (AttributeError, OSError, ValueError):
        return 0


def refusal(schedule: Schedule, noised: bool, widths: int | None) -> str:
    """Why nothing can be kept in a section, or "".

    Args: noised, latent frames that are given get new noise at every iteration; widths, how many the user asks for.
    """
    if widths is not None:
        return "--widths asks for few widths"
    if any(start for start, _ in schedule.baseline):
        return "the host's window moves, and with it where the rotary embedding begins"
    if noised and not schedule.mask[:, 0].any():
        return "--addnoise-condition draws the noise of the given latent frames anew at every step"
    return ""


def narrowed(verdict: StepDecision, start: int) -> StepDecision:
    """A verdict of all slots alike, without those before `start`."""
    ((own, decision),) = verdict.decisions.items()
    if start == own[0]:
        return verdict
    forwarded = (start, verdict.forwarded[1] if verdict.runs else start)
    instead = None if verdict.instead is None else narrowed(verdict.instead, start)
    return replace(verdict, decisions={(start, own[1]): decision}, forwarded=forwarded, instead=instead)
