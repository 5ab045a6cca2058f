"""MAGI-1's timestep signal from the weights: the timestep's part of the condition that enters every block.

The registry's own `feature`, around a stand-in of `TimestepEmbedder` (inference/model/dit/dit_module.py,
SandAI-org/MAGI-1 @ 6ff822e) with the weights of the checkpoint. The host computes it in float32, whatever the dtype of
the others (`_high_precision_promoter`); what may differ from a run is the order of sums on another device.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..method import chunkwise
from ..method.discrepancy import Feature
from ..patch.host import Host
from .weights import Checkpoint

CONDITION = "timestep embedding (from the weights)"
PURPOSE = "the timestep embedding"
LAYERS = ("t_embedder.mlp.0", "t_embedder.mlp.2")
FULL, LONGEST_PERIOD = 1000, 10000
"""Timesteps run from 0 to 1; sinusoids are taken of thousandths."""


class TimestepEmbedder(nn.Module):
    """Timesteps [n] in 0 (noise) .. 1 (clean) -> [n, condition channels]."""

    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__()
        self.waves = first.in_features // 2
        self.mlp = nn.Sequential(first, nn.SiLU(), second)

    def forward(self, timesteps: Tensor) -> Tensor:
        periods = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(self.waves, dtype=torch.float32) / self.waves)
        angles = timesteps[:, None].float() * periods * FULL
        embedded: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))
        return embedded


def condition(
    architecture: Host, checkpoint: Checkpoint, steps: int, shortcut_mode: str, *, distill: bool
) -> Feature:
    """The feature of a chunk's timesteps, [n] -> [n, condition channels].

    Args:
        steps: denoise steps of a chunk.
        shortcut_mode: order of the sizes of 12 steps.
        distill: whether the model is told the size of its steps.

    Raises UsageError where a tensor is missing, or they do not fit together.
    """
    read = checkpoint.read([f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")], PURPOSE)
    embedder = TimestepEmbedder(*(_linear(read[f"{layer}.weight"], read[f"{layer}.bias"]) for layer in LAYERS))
    model = SimpleNamespace(t_embedder=embedder, engine_config=SimpleNamespace(distill=distill))
    transport = SimpleNamespace(
        ts=[torch.tensor(chunkwise.timesteps(steps, shortcut_mode))],
        time_interval=[torch.tensor(_sizes(steps, shortcut_mode))],
        transport_inputs=[SimpleNamespace(num_steps=steps)],
    )
    assert architecture.feature is not None
    feature = architecture.feature(transport, 0, model)
    try:
        feature(torch.zeros(1))
    except RuntimeError as error:
        raise UsageError(
            f"--weights {checkpoint.given}: the tensors of {PURPOSE} do not fit together: {error}"
        ) from error
    return feature


def _sizes(steps: int, shortcut_mode: str) -> list[int]:
    """`init_intervel`: sizes of the steps."""
    if steps % 3:
        return [1] * steps
    return ([1, 1, 2] if shortcut_mode == "16,16,8" else [2, 1, 1]) * (steps // 3)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    made.weight, made.bias = nn.Parameter(weight.float(), False), nn.Parameter(bias.float(), False)
    return made
