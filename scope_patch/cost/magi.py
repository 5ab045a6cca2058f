"""MAGI-1's DiT: FLOPs of a forward and of a call of `forward_dispatcher`.

Read from `inference/model/dit/dit_module.py` and `dit_model.py` (SandAI-org/MAGI-1 @ 6ff822e). Every chunk attends to
a range of chunks of its own and to a caption of its own, so that work is counted chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .layers import attention, linear

FREQUENCIES = 256
"""Channels of the sinusoidal time embedding (`TimestepEmbedder`)."""
NULL_TOKENS = 50
"""Tokens of the empty caption that upstream lets through its mask (`_process_null_embeddings`)."""


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
    def from_config(cls, config: Mapping[str, Any]) -> MagiShape:
        """From the contents of one of upstream's JSON files. Raises KeyError where a field is missing."""
        return cls._read(config["model_config"], bool(config.get("engine_config", {}).get("distill")))

    @classmethod
    def from_model(cls, model: Any) -> MagiShape:
        """From a `VideoDiTModel` (its `model_config`, `engine_config`). Raises KeyError where a field is missing."""
        return cls._read(vars(model.model_config), bool(model.engine_config.distill))

    @classmethod
    def _read(cls, config: Mapping[str, Any], distill: bool) -> MagiShape:
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
            distill=distill,
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
    width = shape.heads * shape.head_dim
    pairs = tokens * (sum(kv_tokens) + sum(text_tokens))
    chunks, count, texts = len(kv_tokens), len(kv_tokens) * tokens, sum(text_tokens)
    layer = _token_wise(shape, count) + attention(1, pairs, width)
    layer += linear(texts, shape.caption_hidden, 2 * shape.groups * shape.head_dim)
    layer += linear(chunks, shape.condition, shape.gates)
    pixels = shape.patch**2 * shape.t_patch
    ends = linear(count, shape.in_channels * pixels, shape.hidden) + linear(
        count, shape.hidden, shape.out_channels * pixels
    )
    return shape.layers * layer + ends + _conditions(shape, chunks)


def dispatch_flops(
    shape: MagiShape,
    tokens: int,
    kv_ranges: Sequence[tuple[int, int]],
    text_tokens: int,
    *,
    cfg_number: int = 1,
    lead: bool = False,
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
        lead: whether the first chunk is a clean one, forwarded for the cache (`fwd_extra_1st_chunk`); its caption is
            the empty one, and the third forward leaves it out.
        duplicate: whether a nearly clean chunk is forwarded once more, attending to itself only
            (`distill_nearly_clean_chunk`); with guidance there is none.

    Raises ValueError for another `cfg_number`.
    """
    seen = [(end - start) * tokens for start, end in kv_ranges]
    texts = [null_tokens if lead and i == 0 else text_tokens for i in range(len(seen))]
    if cfg_number == 1:
        extra = int(duplicate)
        return forward_flops(shape, tokens, [*seen, *[tokens] * extra], [*texts, *[text_tokens] * extra])
    if cfg_number != 3:
        raise ValueError(f"cfg_number {cfg_number} is unknown to us (1 and 3 are known)")
    alone = len(seen) - lead
    return (
        forward_flops(shape, tokens, seen, texts)
        + forward_flops(shape, tokens, seen, [null_tokens] * len(seen))
        + forward_flops(shape, tokens, [tokens] * alone, [null_tokens] * alone)
    )


def _token_wise(shape: MagiShape, count: int) -> int:
    """Projections and feed-forward of a layer; queries are made twice, for self- and for cross-attention."""
    queries, keys = shape.heads * shape.head_dim, shape.groups * shape.head_dim
    inner = shape.ffn * (2 if shape.gated else 1)
    return (
        linear(count, shape.hidden, 2 * queries + 2 * keys)
        + linear(count, 2 * queries, shape.hidden)
        + linear(count, shape.hidden, inner)
        + linear(count, shape.ffn, shape.hidden)
    )


def _conditions(shape: MagiShape, chunks: int) -> int:
    """Embeddings of timesteps (and of the step size) and of captions, which are embedded at their full length."""
    time = linear(chunks, FREQUENCIES, shape.condition) + linear(chunks, shape.condition, shape.condition)
    captions = linear(chunks * shape.caption_length, shape.caption_channels, shape.caption_hidden)
    return time * (2 if shape.distill else 1) + captions + linear(1, shape.caption_channels, shape.condition)
