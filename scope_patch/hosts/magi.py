"""MAGI-1: FLOPs of a forward of its DiT and of a call of `forward_dispatcher`, and the walk of its window of chunks.

Read from `inference/model/dit/dit_module.py`, `dit_model.py` and `SampleTransport` (SandAI-org/MAGI-1 @ 6ff822e). Every
chunk attends to a range of chunks of its own and to a caption of its own, so that work is counted chunk by chunk. A
chunk is denoised in `window` stages of `steps // window` steps each; a new chunk enters at every stage.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..method.schedule import Interval, Schedule, Table
from . import attention, linear

FREQUENCIES = 256
"""Channels of the sinusoidal time embedding (`TimestepEmbedder`)."""
NULL_TOKENS = 50
"""Tokens of the empty caption that upstream lets through its mask (`_process_null_embeddings`)."""
PREFIX_REACH = 8
"""Chunks that a chunk of a prefix sees, itself included, where no ranges are set."""


@dataclass(frozen=True)
class MagiShape:
    """The dimensions of one model; attributes are those of upstream's `model_config`.

    `condition`, `caption_hidden` and `gates` are channels of the time condition, of an embedded caption and of the two
    gates of a layer; `distill` says that the step size is embedded as well.
    """

    layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int
    head_dim: int
    patch: int
    t_patch: int
    in_channels: int
    out_channels: int
    caption_channels: int
    caption_length: int
    condition: int
    caption_hidden: int
    gates: int
    gated: bool
    distill: bool = False

    @classmethod
    def from_model(cls, model: Any) -> MagiShape:
        """From a `VideoDiTModel` (its `model_config`, `engine_config`). Raises KeyError where a field is missing."""
        engine = {"distill": model.engine_config.distill}
        return cls.from_config({"model_config": vars(model.model_config), "engine_config": engine})

    @classmethod
    def from_config(cls, contents: Mapping[str, Any]) -> MagiShape:
        """From the contents of one of upstream's JSON files. Raises KeyError where a field is missing."""
        config = contents["model_config"]
        hidden = config["hidden_size"]
        return cls(
            layers=config["num_layers"],
            hidden=hidden,
            ffn=config["ffn_hidden_size"],
            heads=config["num_attention_heads"],
            groups=config["num_query_groups"],
            head_dim=config["kv_channels"],
            patch=config["patch_size"],
            t_patch=config["t_patch_size"],
            in_channels=config["in_channels"],
            out_channels=config["out_channels"],
            caption_channels=config["caption_channels"],
            caption_length=config["caption_max_length"],
            condition=int(hidden * config["cond_hidden_ratio"]),
            caption_hidden=int(hidden * config["xattn_cond_hidden_ratio"]),
            gates=int(hidden * config["cond_gating_ratio"] * 2),
            gated=config["gated_linear_unit"],
            distill=bool(contents.get("engine_config", {}).get("distill")),
        )

    def chunk_tokens(self, frames: int, height: int, width: int) -> int:
        """Tokens of a chunk of latents [C, frames, height, width]; upstream's `chunk_token_nums`."""
        return (frames // self.t_patch) * (height // self.patch) * (width // self.patch)


def forward_flops(shape: MagiShape, tokens: int, kv_tokens: Sequence[int], text_tokens: Sequence[int]) -> int:
    """FLOPs of one forward of the network over some chunks.

    Args:
        tokens: of a chunk (`MagiShape.chunk_tokens`).
        kv_tokens: for every chunk, how many tokens it attends to, itself and cached ones included.
        text_tokens: for every chunk, caption tokens that are let through its mask.

    Raises ValueError where the two are not of one length.
    """
    if len(kv_tokens) != len(text_tokens):
        raise ValueError(f"{len(kv_tokens)} chunks with keys, {len(text_tokens)} with captions")
    queries, keys, hidden = shape.heads * shape.head_dim, shape.groups * shape.head_dim, shape.hidden
    chunks, count, texts = len(kv_tokens), len(kv_tokens) * tokens, sum(text_tokens)
    # Queries are made twice, for self- and for cross-attention.
    layer = linear(count, hidden, 2 * queries + 2 * keys) + linear(count, 2 * queries, hidden)
    layer += linear(count, hidden, shape.ffn * (2 if shape.gated else 1)) + linear(count, shape.ffn, hidden)
    layer += attention(1, tokens * (sum(kv_tokens) + texts), queries)
    layer += linear(texts, shape.caption_hidden, 2 * keys) + linear(chunks, shape.condition, shape.gates)
    pixels = shape.patch**2 * shape.t_patch
    ends = linear(count, shape.in_channels * pixels, hidden) + linear(count, hidden, shape.out_channels * pixels)
    # Timesteps (and the step size) and captions, which are embedded at their full length.
    time = linear(chunks, FREQUENCIES, shape.condition) + linear(chunks, shape.condition, shape.condition)
    captions = linear(chunks * shape.caption_length, shape.caption_channels, shape.caption_hidden)
    conditions = time * (2 if shape.distill else 1) + captions + linear(1, shape.caption_channels, shape.condition)
    return shape.layers * layer + ends + conditions


def dispatch_flops(
    shape: MagiShape,
    tokens: int,
    kv_ranges: Sequence[tuple[int, int]],
    text_tokens: int,
    *,
    cfg_number: int = 1,
    clean_prefix: bool = False,
    duplicate: bool = False,
    null_tokens: int = NULL_TOKENS,
) -> int:
    """FLOPs of one call of `VideoDiTModel.forward_dispatcher`.

    Args:
        tokens: of a chunk.
        kv_ranges: for every chunk of the call, oldest first, the chunks [start, end) it attends to, absolute.
        text_tokens: of the caption, special tokens included. Upstream's forward over a prefix has the empty caption
            throughout: pass `null_tokens` there.
        cfg_number: 1 (one forward) or 3 (caption, empty caption, and each chunk alone without one).
        clean_prefix: whether the first chunk is a clean one, forwarded for the cache (`fwd_extra_1st_chunk`); its
            caption is the empty one, and the third forward leaves it out.
        duplicate: whether a nearly clean chunk is forwarded once more, attending to itself only
            (`distill_nearly_clean_chunk`); with guidance there is none.

    Raises ValueError for another `cfg_number`.
    """
    seen = [(end - start) * tokens for start, end in kv_ranges]
    texts = [null_tokens if clean_prefix and i == 0 else text_tokens for i in range(len(seen))]
    if cfg_number == 1:
        extra = int(duplicate)
        return forward_flops(shape, tokens, [*seen, *[tokens] * extra], [*texts, *[text_tokens] * extra])
    if cfg_number != 3:
        raise ValueError(f"cfg_number {cfg_number} is unknown to us (1 and 3 are known)")
    alone = len(seen) - clean_prefix
    return (
        forward_flops(shape, tokens, seen, texts)
        + forward_flops(shape, tokens, seen, [null_tokens] * len(seen))
        + forward_flops(shape, tokens, [tokens] * alone, [null_tokens] * alone)
    )


def duplicated(schedule: Schedule, iteration: int, cfg_number: int) -> bool:
    """Whether upstream forwards the oldest chunk once more, alone; the last word of a row's context says so."""
    context = schedule.contexts[iteration]
    return cfg_number == 1 and isinstance(context, tuple) and bool(context[-1])


def window_flops(
    schedule: Schedule,
    shape: MagiShape,
    chunk_tokens: int,
    seen: Sequence[Sequence[Interval]],
    text_tokens: int,
    cfg_number: int,
) -> Callable[[int, Interval], int]:
    """(iteration, slots) -> FLOPs of forwarding the window's chunks up to the last of these, clean prefix included.

    Args:
        seen: for every iteration, the chunks that each chunk attends to (`kv_ranges`).
    """

    def flops(iteration: int, slots: Interval) -> int:
        prefix = schedule.clean_prefix(iteration)
        chunks = slots[1] - schedule.intervals[iteration][0] + prefix
        return dispatch_flops(
            shape,
            chunk_tokens,
            seen[iteration][:chunks],
            text_tokens,
            cfg_number=cfg_number,
            clean_prefix=bool(prefix),
            duplicate=duplicated(schedule, iteration, cfg_number),
        )

    return flops


@dataclass(frozen=True)
class Row:
    """One denoise step of a window.

    Attributes:
        start, end: the chunks [start, end) are denoised.
        timesteps: the host's timestep of each of them, oldest first.
        context: what the velocities hang on beside latents and timesteps (which chunks are seen, how strong the
            guidance is). Velocities of different contexts are not of one curve.
        clean_prefix: clean chunks right before `start` that are forwarded along, to cache their keys and values.
    """

    start: int
    end: int
    timesteps: tuple[float, ...]
    context: Hashable = None
    clean_prefix: int = 0


def window_table(rows: Sequence[Row], frames: int) -> Table:
    """What the loop of these steps does; a slot is a chunk, numbered over the whole video.

    Args:
        frames: latent frames a chunk.

    Raises ValueError where a row does not have one timestep a chunk.
    """
    mask = torch.zeros(len(rows), max((row.end for row in rows), default=0), dtype=torch.bool)
    timesteps = torch.zeros(mask.shape, dtype=torch.float64)
    for i, row in enumerate(rows):
        if len(row.timesteps) != row.end - row.start:
            raise ValueError(f"step {i}: {len(row.timesteps)} timesteps for chunks [{row.start}, {row.end})")
        mask[i, row.start : row.end] = True
        timesteps[i, row.start : row.end] = torch.tensor(row.timesteps, dtype=torch.float64)
    return Table(
        timesteps,
        1 - timesteps,
        mask,
        [(row.start, row.end) for row in rows],
        [row.clean_prefix for row in rows],
        [row.context for row in rows],
        frames,
        moving=True,
    )


class Step(NamedTuple):
    """One step of the window.

    `stage` numbers the stages and `position` the steps in one; chunks [start, end) are at the denoise steps `indices`,
    oldest chunk first; `clean_prefix` (0 or 1) chunks before them go along, clean.
    """

    stage: int
    position: int
    start: int
    end: int
    indices: tuple[int, ...]
    clean_prefix: int


def walk(chunks: int, window: int, steps: int, offset: int = 0) -> Iterator[Step]:
    """Every step of a generation of chunks [offset, chunks); see `rows` for the arguments and errors."""
    if not 1 <= window <= steps or not 0 <= offset < chunks:
        raise ValueError(f"no window of {window} chunks and {steps} steps over chunks [{offset}, {chunks})")
    length = steps // window
    for stage in range(chunks - offset + window - 1):
        newest = offset + stage  # the chunk that enters, were there one
        start, end = max(offset, newest - window + 1), min(chunks, newest + 1)
        for position in range(length):
            indices = tuple((newest - chunk) * length + position for chunk in range(start, end))
            yield Step(stage, position, start, end, indices, int(start > offset and position == 0))


def rows(
    chunks: int,
    window: int,
    steps: int,
    timesteps: Sequence[float],
    offset: int = 0,
    *,
    ranges: Sequence[int] = (),
    guidance: Sequence[tuple[float, float, float]] = (),
    nearly_clean: float = 0.3,
) -> list[Row]:
    """Every step of a generation.

    Args:
        chunks: of the whole video, those of a prefix included.
        window: chunks denoised at once (`window_size`).
        steps: denoise steps of a chunk (`num_steps`).
        timesteps: `steps + 1` of them, 0 (noise) .. 1 (clean); see `timesteps`.
        offset: chunks of a prefix that are not denoised.
        ranges: `noise2clean_kvrange`.
        guidance: (`cfg_t_range`, `prev_chunk_scales`, `text_scales`) row by row; none without guidance.
        nearly_clean: `distill_nearly_clean_chunk_threshold`.

    Returns:
        Rows whose `context` is (stage, reach of every chunk, guidance of every chunk, whether the oldest is blended).

    Raises ValueError for a window wider than the steps, an offset outside the video, or another number of timesteps.
    """
    if len(timesteps) != steps + 1:
        raise ValueError(f"{len(timesteps)} timesteps for {steps} steps")
    out = []
    for step in walk(chunks, window, steps, offset):
        levels = tuple(float(timesteps[index]) for index in step.indices)
        reach = tuple(index * (len(ranges) or 1) // steps for index in reversed(step.indices))
        scales = tuple(_scales(guidance, level) for level in levels) if guidance else ()
        context = (step.stage, reach, scales, levels[0] > nearly_clean)
        out.append(Row(step.start, step.end, levels, context, step.clean_prefix))
    return out


def kv_ranges(
    chunks: int, window: int, steps: int, offset: int = 0, *, ranges: Sequence[int] = (), clean: int = -1
) -> list[list[Interval]]:
    """For every step, the chunks [first, last) that each chunk in [start - clean_prefix, end) attends to.

    Args:
        ranges: `noise2clean_kvrange`: chunks seen, itself included, from the noisiest stage on; all if empty.
        clean: `clean_chunk_kvrange`, for the clean prefix; -1 stands for the last of `ranges`. It has no say without.

    Raises ValueError where `rows` does, and where `steps` is no multiple of the number of `ranges`.
    """
    if ranges and steps % len(ranges):
        raise ValueError(f"{steps} steps do not divide into {len(ranges)} ranges")
    reaches = ranges or [chunks]
    before = reaches[-1] if clean == -1 or not ranges else clean
    return [
        _ranges(
            step.start - step.clean_prefix,
            [before] * step.clean_prefix + [reaches[index * len(reaches) // steps] for index in step.indices],
        )
        for step in walk(chunks, window, steps, offset)
    ]


def prefix_kv_ranges(offset: int, *, ranges: Sequence[int] = (), clean: int = -1) -> list[Interval]:
    """What each chunk of a prefix attends to in the forward that caches it; arguments as of `kv_ranges`."""
    reach = clean if clean != -1 else ranges[-1] if ranges else PREFIX_REACH
    return _ranges(0, [reach] * offset)


def timesteps(steps: int, shortcut_mode: str = "8,16,16") -> list[float]:
    """Timesteps of a chunk, 0 (noise) .. 1 (clean), `steps + 1` of them; equal to upstream's `init_t` on a CPU.

    Args:
        steps: uniform before the shift, but 12: those are the shortcut's, of two sizes.
        shortcut_mode: "16,16,8" or "8,16,16"; the order of the two sizes. Read for 12 steps only.
    """
    if steps == 12:
        quarters = torch.linspace(0, 1, 5)
        sizes = quarters[:3] if shortcut_mode == "16,16,8" else quarters[[0, 2, 3]]
        t = (quarters[:, None] + sizes / 4).flatten()[: steps + 1]
    else:
        t = torch.linspace(0, 1, steps + 1)
    t, shift = t**2, 1 / 3.0
    shifted: list[float] = (shift * t / (1 + (shift - 1) * t)).tolist()
    return shifted


def _ranges(first: int, reach: Sequence[int]) -> list[Interval]:
    """Of consecutive chunks from `first` on, each reaching back so many chunks, itself included."""
    return [(max(0, chunk + 1 - back), chunk + 1) for chunk, back in enumerate(reach, start=first)]


def _scales(guidance: Sequence[tuple[float, float, float]], t: float) -> tuple[float, float]:
    """Scales of the previous chunks and of the text: those of the last range that has begun."""
    row = sum(start - 1e-7 < t for start, _, _ in guidance) - 1
    return guidance[row][1:]
