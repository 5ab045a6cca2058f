"""What the model is trained on and asked for: single frames of the demo's clips, and captions as upstream has them."""

from __future__ import annotations

import torch

from demo_model.clips import draw, random_clip
from demo_model.text import MAX_TOKENS, encode_prompts

TEXT_DIM = 128  # upstream's text pooling wants heads of 128: the demo's 64 numbers a token, twice
Caption = tuple[torch.Tensor, list[int], torch.Tensor, int]


def pictures(seeds: range) -> tuple[torch.Tensor, list[str]]:
    """[len(seeds), 3, 64, 64] in [-1, 1] and their prompts; each is a frame of the clip of that number."""
    clips = [random_clip(seed) for seed in seeds]
    frames = [draw(shapes, 1, seed * 7919 % 120)[:, 0] for seed, (_, shapes) in zip(seeds, clips, strict=True)]
    return torch.stack(frames), [prompt for prompt, _ in clips]


def embed(prompts: list[str]) -> torch.Tensor:
    """[len(prompts), MAX_TOKENS, TEXT_DIM]; zeros behind the last word."""
    return encode_prompts(prompts).repeat(1, 1, TEXT_DIM // 64)


def caption(embedded: torch.Tensor) -> Caption:
    """(all tokens one behind the other, lengths, their bounds, the longest): as `encode_prompt` makes it."""
    rows = len(embedded)
    bounds = torch.arange(rows + 1, dtype=torch.int32) * MAX_TOKENS
    return embedded.flatten(0, 1).clone(), [MAX_TOKENS] * rows, bounds, MAX_TOKENS
