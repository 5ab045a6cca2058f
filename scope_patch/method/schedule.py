"""Which latent frames are under way at every iteration, and which interval of them must be forwarded.

Equations 8 and 9 of design §2 (SCOPE's update mask and interval end). Everything is made on the CPU, once a segment:
these are small tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate, pairwise
from math import inf

import torch
from torch import Tensor

Interval = tuple[int, int]
LOWEST_START = 0.002
"""No video starts so near to clean: where this is the highest noise level, timesteps are in another unit."""


def overlap(one: Interval, other: Interval) -> Interval:
    """The slots that two intervals share; empty, but never of negative length, where there is none."""
    start = max(one[0], other[0])
    return start, max(start, min(one[1], other[1]))


def update_mask(step_index: Tensor, steps: int, pre_ready: int = 0) -> Tensor:
    """Equation 8: m[i, j] = 1[s[i, j] != s[i-1, j]] * 1[s[i, j] != S], booleans [iterations, latent frames].

    Args:
        step_index: progress index s, integers [iterations, latent frames].
        steps: denoise steps of one latent frame; index `steps + 1` (S) means finished.
        pre_ready: leading latent frames that are conditioning and stand at S before the first iteration.
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
    if not mask.numel():
        return [0] * len(mask)
    position = torch.arange(1, mask.shape[1] + 1)
    conditioning = int((position * ~mask.any(dim=0)).max())
    reach = (position * mask).amax(dim=1).clamp(min=conditioning)
    return reach.cummax(dim=0).values.tolist()


@dataclass(frozen=True)
class Table:
    """What a host's loop is going to do in one segment, however it says so itself.

    Attributes:
        timesteps: the host's, [iterations, slots].
        noise_levels: sigma in 0 (clean) .. 1 (noise), [iterations, slots].
        mask: booleans [iterations, slots], True where a slot is integrated.
        intervals: what the host forwards at every iteration, clean prefix left out.
        clean_prefixes: clean slots right before each interval that are forwarded along, to cache keys and values.
        contexts: what velocities hang on beside latents and timesteps (which chunks are seen, how strong the guidance
            is), one an iteration. Velocities of different contexts are not of one curve.
        frames: latent frames a slot.
        moving: slots are chunks of a window that moves along the video; each has a history of its own.
    """

    timesteps: Tensor
    noise_levels: Tensor
    mask: Tensor
    intervals: Sequence[Interval]
    clean_prefixes: Sequence[int] = ()
    contexts: Sequence[Hashable] = ()
    frames: int = 1
    moving: bool = False

    def check(self) -> None:
        """Raises ValueError, with a sentence, where the table contradicts itself.

        A slot that is updated goes from noise (1) to clean (0). One that is not stays where it is, or has finished. A
        moving window has one timestep a chunk, the cleanest first, and never moves back.
        """
        for name, found in (("timesteps", self.timesteps), ("levels", self.noise_levels), ("mask", self.mask)):
            if found.dim() != 2 or found.shape != self.mask.shape:
                raise ValueError(f"{name} is {list(found.shape)}, expected [iterations, slots] as the mask")
        given = {"intervals": self.intervals, "clean prefixes": self.clean_prefixes, "contexts": self.contexts}
        for name, rows in given.items():
            if len(rows) != len(self.mask) and (rows or name == "intervals"):
                raise ValueError(f"there are {len(rows)} {name} for {len(self.mask)} iterations")
        mask, levels = _on_cpu(self.mask, torch.bool), _on_cpu(self.noise_levels, torch.float64)
        if self.moving:
            self._check_window(mask, levels)
        if mask.any():
            _check_levels(mask, levels)

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


def _check_levels(mask: Tensor, levels: Tensor) -> None:
    low, high = levels[mask].aminmax()
    if not (low >= 0 and LOWEST_START < high <= 1):
        raise ValueError(f"the noise levels go from {low:.4g} to {high:.4g}, expected some of 0 (clean) to 1 (noise)")
    change = levels[1:] - levels[:-1]
    risen = (mask[1:] & mask[:-1] & (change > 0)).nonzero().tolist()
    if risen:
        i, j = risen[0][0] + 1, risen[0][1]
        raise ValueError(f"the noise levels rise, at iteration {i} that of latent frame {j}")
    fallen = (~mask[1:] & (change < 0) & (levels[1:] > 0)).nonzero().tolist()
    if fallen:
        i, j = fallen[0][0] + 1, fallen[0][1]
        raise ValueError(f"the update mask leaves latent frame {j} alone at iteration {i}, where its timestep falls")


@dataclass
class Widths:
    """The widths of one generation: later segments take those of earlier ones where these are wide enough.

    A compiled model is compiled once a width, and a CUDA graph is captured once a width. Ends are rounded up, to widths
    that occur anyway: more latent frames are left in that have not started, as the host itself leaves in all of them,
    and block-causal masks still get whole blocks.

    Attributes:
        most: distinct widths a segment, at least 1; None: as many as there are.
        known: widths that earlier segments were given.
        limited: there would have been more.
    """

    most: int | None = None
    known: set[int] = field(default_factory=set)
    limited: bool = False

    def of_segment(self, counts: Mapping[int, int]) -> dict[int, int]:
        """Width -> the width that it is rounded up to; given, width -> iterations of the segment that need it."""
        if self.most is None or not counts:
            return {width: width for width in counts}
        widest = max(counts)  # never above: it may be all that the segment has
        targets = sorted({width for width in self.known if width < widest} | {widest})
        if not self.known or widest > max(self.known) or len(targets) > self.most:
            targets = fewest(counts, self.most)
        self.known.update(targets)
        rounded = {width: next(target for target in targets if target >= width) for width in counts}
        self.limited |= any(width != to for width, to in rounded.items())
        return rounded


def fewest(counts: Mapping[int, int], most: int) -> list[int]:
    """Of the widths in `counts`, at most `most` to round up to, ascending, with the fewest additional latent frames.

    Additional ones are counted over all iterations, also those that may be skipped later. Exact, by dynamic programming
    over the sorted widths.
    """
    widths = sorted(counts)
    iterations = [0, *accumulate(counts[width] for width in widths)]
    frames = [0, *accumulate(width * counts[width] for width in widths)]

    def additional(start: int, end: int) -> int:
        """Latent frames, where the widths [start, end) are rounded up to the last of them."""
        return widths[end - 1] * (iterations[end] - iterations[start]) - (frames[end] - frames[start])

    # Of the first so many widths: (additional latent frames, targets), with one more target allowed every time.
    best: list[tuple[float, tuple[int, ...]]] = [(0, ()), *[(inf, ())] * len(widths)]
    for _ in range(min(most, len(widths))):
        best = [best[0]] + [
            min((best[start][0] + additional(start, end), (*best[start][1], widths[end - 1])) for start in range(end))
            for end in range(1, len(best))
        ]
    return list(best[-1][1])


@dataclass(frozen=True, kw_only=True)
class Schedule(Table):
    """One segment: a table on the CPU, its noise levels in float64, and what is forwarded.

    Attributes:
        intervals: what is forwarded at every iteration.
        ends: interval end e of every iteration (growth of e is growth of the work under way).
        baseline: what the host forwards at every iteration, clean prefix included.
        selective: whether `intervals` are SCOPE's; False also where they could not be used (see `note`).
    """

    ends: list[int]
    baseline: list[Interval]
    selective: bool
    note: str = ""
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
        times, levels = table.timesteps.detach().to("cpu"), _on_cpu(table.noise_levels, torch.float64)
        own = {each.name: getattr(table, each.name) for each in fields(Table)}  # of a subclass, these
        own |= {"timesteps": times, "noise_levels": levels, "mask": mask, "intervals": intervals}
        baseline = [(start - prefix, end) for (start, end), prefix in zip(host, prefixes, strict=True)]
        return cls(**own, ends=ends, baseline=baseline, selective=selective and not note, note=note)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def in_step(self) -> bool:
        """Whether all slots that are updated at an iteration are at one noise level, at all of them."""
        return all(len(levels[own].unique()) <= 1 for levels, own in zip(self.noise_levels, self.mask, strict=True))

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
