"""A DiT of one block."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, hidden):
        return hidden + torch.tanh(self.mix(hidden))


class ToyDiT(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block() for _ in range(2)])

    def forward(self, latents, timestep, text, fill=False):
        hidden = latents.movedim(1, -1) + text + timestep.reshape(-1)[0] / 1000
        for block in self.blocks:
            hidden = block(hidden)
        velocity = hidden.movedim(-1, 1)
        return (velocity, {}) if fill else velocity
