"""Which latent frames are under way at every iteration, and which interval of them must be forwarded.

Equations 8 and 9 of design §2 (SCOPE's update mask and interval end). Everything is made on the CPU, once a segment:
these are small tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from .widths import Widths

Interval = tuple[int, int]
LOWEST_START = 0.002
"""No video starts so near to clean: where this is the highest noise level, timesteps are in another unit."""


def overlap(one: Interval, other: Interval) -> Interval:
    """The slots that two intervals share; empty, but never of negative length, where there is none."""
    start = max(one[0], other[0])
    return start, max(start, min(one[1], other[1]))


def update_mask(step_index: Tensor, steps: int, pre_ready: int = 0) -> Tensor:
    """Equation 8: m[i, j] = 1[s[i, j] != s[i-1, j]] * 1[s[i, j] != S].

    Args:
        step_index: progress index s, integers of shape [iterations, latent frames].
        steps: denoise steps of one latent frame; index `steps + 1` (S) means finished.
        pre_ready: leading latent frames that are conditioning and stand at S before the first iteration.

    Returns:
        Booleans of shape [iterations, latent frames]: True where the latent frame is integrated.
    """
    before = torch.zeros_like(step_index[:1])
    before[:, :pre_ready] = steps + 1
    previous = torch.cat([before, step_index[:-1]])
    return (step_index != previous) & (step_index != steps + 1)


def interval_ends(mask: Tensor) -> list[int]:
    """Equation 8: e[i] = max(e[i-1], 1 + max{j : m[i, j]}), over an update mask [iterations, latent frames].

    A latent frame that never updates is conditioning (an image, an end frame, a prefix): the others need it as
    context from the first iteration on, so e starts behind the last of them.
    """
    slots = mask.shape[1]
    position = torch.arange(1, slots + 1)
    conditioning = ~mask.any(dim=0)
    first = int((position * conditioning).max()) if slots else 0
    reach = (position * mask).amax(dim=1) if slots else torch.zeros(mask.shape[0], dtype=torch.long)
    return torch.cummax(reach.clamp(min=first), dim=0).values.tolist() if mask.shape[0] else []


@dataclass(frozen=True)
class Table:
    """What a host's loop is going to do in one segment, however it says so itself.

    Attributes:
        timesteps: the host's, [iterations, slots].
        levels: sigma in 0 (clean) .. 1 (noise), [iterations, slots].
        mask: booleans [iterations, slots], True where a slot is integrated.
        intervals: what the host forwards at every iteration, clean prefix left out.
        clean_prefixes: clean slots right before each interval that are forwarded along, to cache keys and values.
        contexts: what velocities hang on beside latents and timesteps (which chunks are seen, how strong the guidance
            is), one an iteration. Velocities of different contexts are not of one curve.
        slot_frames: latent frames a slot.
        moving: slots are chunks of a window that moves along the video; each has a history of its own.
    """

    timesteps: Tensor
    levels: Tensor
    mask: Tensor
    intervals: Sequence[Interval]
    clean_prefixes: Sequence[int] = ()
    contexts: Sequence[Hashable] = ()
    slot_frames: int = 1
    moving: bool = False

    def check(self) -> None:
        """Raises ValueError, with a sentence, where the table contradicts itself.

        A slot that is updated goes from noise (1) to clean (0). One that is not stays where it is, or has finished. A
        moving window has one timestep a chunk, the cleanest first, and never moves back.
        """
        for name in ("timesteps", "levels", "mask"):
            found = getattr(self, name)
            if found.dim() != 2 or found.shape != self.mask.shape:
                raise ValueError(f"{name} is {list(found.shape)}, expected [iterations, slots] as the mask")
        given = {"clean prefixes": len(self.clean_prefixes), "contexts": len(self.contexts)}
        for name, count in {"intervals": len(self.intervals), **{k: n for k, n in given.items() if n}}.items():
            if count != len(self.mask):
                raise ValueError(f"there are {count} {name} for {len(self.mask)} iterations")
        mask, levels = _on_cpu(self.mask, torch.bool), _on_cpu(self.levels, torch.float64)
        if self.moving:
            self._check_window(mask, levels)
        problem = contradiction(mask, levels)
        if problem:
            raise ValueError(problem)

    def _check_window(self, mask: Tensor, levels: Tensor) -> None:
        before = (0, 0)
        for i, (start, end) in enumerate(self.intervals):
            prefix = self.clean_prefixes[i] if self.clean_prefixes else 0
            chunks = mask[i].nonzero().flatten().tolist()
            if chunks != list(range(start, end)) or not 0 <= prefix <= start:
                raise ValueError(f"step {i}: chunks {chunks} are updated of [{start}, {end}), {prefix} clean before it")
            if start < before[0] or end < before[1]:
                raise ValueError(f"step {i}: the window moves back from [{before[0]}, {before[1]})")
            window = levels[i, start:end].tolist()
            if any(older > newer for older, newer in pairwise(window)):
                raise ValueError(f"step {i}: chunks do not come cleanest first, their noise levels are {window}")
            before = (start, end)


def contradiction(mask: Tensor, levels: Tensor) -> str:
    """Why an update mask and noise levels, both [iterations, slots], cannot be what they are taken for, or ""."""
    active = levels[mask]
    if not active.numel():
        return ""
    low, high = float(active.min()), float(active.max())
    if not (low >= 0 and LOWEST_START < high <= 1):
        return f"the noise levels go from {low:.4g} to {high:.4g}, expected some of 0 (clean) to 1 (noise)"
    change = levels[1:] - levels[:-1]
    risen = (mask[1:] & mask[:-1] & (change > 0)).nonzero()
    if len(risen):
        return f"the noise levels rise, at iteration {int(risen[0, 0]) + 1} that of latent frame {int(risen[0, 1])}"
    fallen = (~mask[1:] & (change < 0) & (levels[1:] > 0)).nonzero()
    if len(fallen):
        i, j = int(fallen[0, 0]) + 1, int(fallen[0, 1])
        return f"the update mask leaves latent frame {j} alone at iteration {i}, where its timestep falls"
    return ""


@dataclass(frozen=True)
class Schedule:
    """One segment: what is updated when, at which timestep, and what is forwarded.

    Attributes:
        mask: update mask, booleans [iterations, latent frames].
        timesteps: the host's timesteps, [iterations, latent frames].
        noise_levels: sigma in 0..1, float64 [iterations, latent frames].
        ends: interval end e of every iteration (growth of e is growth of the work under way).
        intervals: what is forwarded at every iteration.
        baseline: what the host forwards at every iteration.
        selective: whether `intervals` are SCOPE's; False also where they could not be used (see `note`).
        clean_prefixes: clean slots right before the interval that the host forwards along to cache keys and values.
        contexts: what velocities hang on beside latents and timesteps; a history is of one context.
        frames: latent frames a slot.
        moving: slots are chunks of a moving window, each with a history of its own.
    """

    mask: Tensor
    timesteps: Tensor
    noise_levels: Tensor
    ends: list[int]
    intervals: list[Interval]
    baseline: list[Interval]
    selective: bool
    note: str = ""
    clean_prefixes: Sequence[int] = ()
    contexts: Sequence[Hashable] = ()
    frames: int = 1
    moving: bool = False
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, table: Table, *, selective: bool = False, widths: Widths | None = None) -> Schedule:
        """The schedule of a table, which is not checked here.

        Where `selective`: equation 9 against the host's own intervals, [max(e - W, 0), e) with W the host's window. A
        moving window says itself what is under way. Where widths shall be few, an end within the window is rounded up;
        behind it, intervals are W wide as they are. Falls back to the host's intervals, with a note, where SCOPE's
        would leave out a latent frame that is integrated or reach outside what the host itself would have forwarded.
        """
        mask, host, note = _on_cpu(table.mask, torch.bool), list(table.intervals), ""
        prefixes = list(table.clean_prefixes) or [0] * len(host)
        ends = [end for _, end in host] if table.moving else interval_ends(mask)
        intervals, selective = host, selective and not table.moving
        if selective:
            window = max((end - start for start, end in host), default=0)
            width = (widths or Widths()).of_segment(Counter(min(end, window) for end in ends))
            ours = [(max(end - window, 0), max(end, width[min(end, window)])) for end in ends]
            note = misfit(mask, ours, host)
            intervals = host if note else ours
        return cls(
            mask,
            table.timesteps.detach().to("cpu"),
            _on_cpu(table.levels, torch.float64),
            ends,
            intervals,
            [(start - prefix, end) for (start, end), prefix in zip(host, prefixes, strict=True)],
            selective and not note,
            note,
            table.clean_prefixes,
            table.contexts,
            table.slot_frames,
            table.moving,
        )

    def __len__(self) -> int:
        return len(self.ends)

    def levels(self, iteration: int, interval: Interval, device: torch.device) -> Tensor:
        """Noise levels of the slots in an interval, [slots], on a device; the whole table is copied there once."""
        if device not in self._copies:
            self._copies[device] = on_device(self.noise_levels, device)
        return self._copies[device][iteration, interval[0] : interval[1]]

    def grew(self, iteration: int) -> bool:
        """Whether new latent frames came under way at this iteration (always so at the first)."""
        return iteration == 0 or self.ends[iteration] > self.ends[iteration - 1]

    def entered(self, iteration: int, slots: Interval) -> bool:
        """Whether one of these slots came under way at this iteration."""
        return self.grew(iteration) and (iteration == 0 or slots[1] > self.ends[iteration - 1])

    def clean_prefix(self, iteration: int) -> int:
        """Clean slots forwarded in front of the interval: a forward with one must not be skipped altogether."""
        return self.clean_prefixes[iteration] if self.clean_prefixes else 0

    def context_changed(self, iteration: int, before: int) -> bool:
        """Whether velocities of the iteration `before` belong to another curve than those of this one."""
        return bool(self.contexts) and self.contexts[iteration] != self.contexts[before]


def by_step(schedule: Schedule) -> Schedule:
    """The same, with the number of the iteration in the place of every noise level: for forecasts in step numbers."""
    steps = torch.arange(len(schedule), dtype=torch.float64)
    return replace(schedule, noise_levels=steps[:, None].expand_as(schedule.noise_levels).contiguous())


def misfit(mask: Tensor, intervals: list[Interval], baseline: list[Interval]) -> str:
    """Why these intervals cannot stand in for the host's; empty where they can."""
    for iteration, ((start, end), (host_start, host_end)) in enumerate(zip(intervals, baseline, strict=True)):
        if start < host_start or end > host_end:
            return f"iteration {iteration}: [{start}, {end}) is not inside the host's [{host_start}, {host_end})"
        active = mask[iteration].nonzero()
        if len(active) and not (start <= int(active.min()) and int(active.max()) < end):
            return f"iteration {iteration}: an updated latent frame is outside [{start}, {end})"
    return ""


def on_device(table: Tensor, device: torch.device) -> Tensor:
    """A float64 table on a device, without the host waiting for it; the table itself where it is there already.

    MPS has no float64 and gets float32.
    """
    if table.device == device:
        return table
    if device.type == "mps":
        return table.to(device, torch.float32)
    if device.type == "cuda":
        table = table.pin_memory()  # from pageable memory the copy would be waited for after all
    return table.to(device, non_blocking=True)


def _on_cpu(table: Tensor, dtype: torch.dtype) -> Tensor:
    return table.detach().to("cpu", dtype)
