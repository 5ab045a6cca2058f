"""What a chunk is in training: its time, what it sees and reads, whether its velocity counts; as the sampler has it.

Upstream's loop forwards a window of at most four chunks a quarter of the steps apart, the oldest the cleanest;
finished chunks before it are seen by keys made of each alone. Guidance adds a forward without text, and one in which
every chunk is alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .model import CLEAN_T

WINDOW = 4
REACH = (5, 4, 3, 2)  # chunks that one sees, itself among them, by the quarter of its steps (noise2clean_kvrange)
BRANCHES = {"text": 0.66, "no text": 0.2, "alone": 0.14}
"""How often each. Without text the last quarter of the steps runs altogether, as upstream's text_scales are 0 there."""


class Levels(NamedTuple):
    """For K chunks, or [B, K] of them; see VideoDiT.forward. `weight` is 0 for history."""

    t: torch.Tensor
    weight: torch.Tensor
    reads_text: torch.Tensor
    says_text: torch.Tensor
    sees: torch.Tensor


def time_of(progress: torch.Tensor) -> torch.Tensor:
    """The time after this part of the steps: upstream's init_t, squared and then shifted by 3."""
    return progress**2 / (3 - 2 * progress**2)


def progress_of(t: torch.Tensor) -> torch.Tensor:
    """The inverse of `time_of`."""
    return (3 * t / (1 + 2 * t)).sqrt()


def draw_times(count: int, rng: torch.Generator) -> torch.Tensor:
    """[count] times of a window's chunks: half of the windows staircases, a quarter one time, a quarter independent."""
    style = torch.rand((), generator=rng).item()
    if style < 0.5:  # a window that is short is that of a video's begin or end
        stage = int(torch.randint(count - 1, WINDOW, (), generator=rng))
        stages = stage - torch.arange(count)
        return time_of((stages + torch.rand((), generator=rng)) / WINDOW)
    if style < 0.75:
        return time_of(torch.rand((), generator=rng)).repeat(count)
    return torch.rand(count, generator=rng)  # the late steps are few and long: here they are half of all


def draw_history(room: int, begins: bool, rng: torch.Generator) -> int:
    """Finished chunks before a window, which leave it a chunk of `room`; none only where a video begins."""
    if begins and torch.rand((), generator=rng) < 0.5:
        return 0
    most = min(3, room - 1)
    several = torch.rand((), generator=rng) < 0.25  # before a continued video; else none but the last is in reach
    return int(torch.randint(1, most + 1, (), generator=rng)) if several else 1


def draw_clip(chunks: int, begins: bool, rng: torch.Generator) -> Levels:
    """One clip, which is a video from its begin on where `begins`."""
    t = torch.full((chunks,), CLEAN_T)
    weight, sees = torch.zeros(chunks), torch.eye(chunks, dtype=torch.bool)
    reads, says = torch.zeros(chunks, dtype=torch.bool), torch.zeros(chunks, dtype=torch.bool)
    chances = torch.tensor(list(BRANCHES.values()))
    branch = list(BRANCHES)[int(torch.multinomial(chances, 1, generator=rng))]
    # A step in which a chunk was just finished runs it along with the others, and so tells it of a text too.
    told = branch == "text" and torch.rand((), generator=rng).item() < 0.15
    start = 0
    while branch != "alone" and chunks - start >= 2:  # several windows where there is room
        first = start + draw_history(chunks - start, begins and start == 0, rng)
        count = min(WINDOW, chunks - first)
        if torch.rand((), generator=rng) < 0.2:
            count = int(torch.randint(1, count + 1, (), generator=rng))
        end = first + count
        t[first:end], weight[first:end] = draw_times(count, rng), 1.0
        reads[first:end] = branch == "text"
        says[first:end], says[start:first] = branch == "text", told
        stages = (progress_of(t[first:end]) * WINDOW).int().clamp(max=WINDOW - 1).tolist()
        for row, stage in zip(range(first, end), stages, strict=True):
            sees[row, max(start, row + 1 - REACH[stage]) : row + 1] = True
        start = end
    while start < chunks:
        end = min(start + WINDOW, chunks)
        t[start:end], weight[start:end] = draw_times(end - start, rng), 1.0
        start = end
    return Levels(t, weight, reads, says, sees)


def draw_levels(begins: list[bool], chunks: int, rng: torch.Generator) -> Levels:
    """A batch of clips."""
    clips = [draw_clip(chunks, begin, rng) for begin in begins]
    return Levels(*(torch.stack(parts) for parts in zip(*clips, strict=True)))
