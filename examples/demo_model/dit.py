"""The DiT: its configuration, and the one departure from a stock one, a low-passed time embedding."""

from __future__ import annotations

import math

import torch
from diffusers import SkyReelsV2Transformer3DModel

from .text import TEXT_DIM

BLOCK = 5  # latent frames that share a noise level
SHORTEST_WAVE = 1000.0  # timesteps; shorter waves of the time embedding are not listened to

CONFIG = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=4,
    attention_head_dim=32,
    in_channels=16,
    out_channels=16,
    text_dim=TEXT_DIM,
    freq_dim=64,
    ffn_dim=512,
    num_layers=8,
    cross_attn_norm=True,
    qk_norm="rms_norm_across_heads",
    eps=1e-6,
    rope_max_seq_len=1024,
    num_frame_per_block=BLOCK,
)


def build_dit() -> SkyReelsV2Transformer3DModel:
    """An untrained DiT, block-causal as the pipeline makes it in asynchronous mode."""
    return SkyReelsV2Transformer3DModel(**CONFIG)


def slow_columns(freq_dim: int, shortest_wave: float) -> torch.Tensor:
    """[freq_dim] mask of the inputs of the time embedding (cosines, then sines) whose wave is long enough."""
    half = freq_dim // 2
    wave = 2 * math.pi * 10000.0 ** (torch.arange(half) / half)  # timesteps
    return (wave >= shortest_wave).repeat(2)


@torch.no_grad()
def low_pass_(dit: SkyReelsV2Transformer3DModel, shortest_wave: float = SHORTEST_WAVE) -> None:
    """Zero the weights that read fast waves of the timestep.

    A small model trained for minutes fits noise through them: its velocity then jumps from one timestep to the next,
    which the large models' does not, and no extrapolation in the noise level can work.
    """
    weight = dit.condition_embedder.time_embedder.linear_1.weight
    weight.mul_(slow_columns(weight.shape[1], shortest_wave).to(weight))
