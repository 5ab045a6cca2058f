"""A toy DiT: time modulation as in the real one, blocks that mix latent frames, text that matters."""

import torch
from torch import nn


class ModelMixin:
    """Stands in for diffusers' ModelMixin, by name."""


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.mix = nn.Linear(dim, dim)

    def forward(self, x, e, context):
        """x: [B, tokens, dim]; e: [B, 6, tokens, dim]."""
        shift, scale, gate = e[:, 0], e[:, 1], e[:, 2]
        y = self.mix(x * (1 + scale) + shift + context.mean(dim=1, keepdim=True))
        return x + gate * torch.tanh(y + y.mean(dim=1, keepdim=True))


class WanModel(nn.Module, ModelMixin):
    def __init__(self, dim=8, layers=2, freq_dim=16):
        super().__init__()
        self.dim, self.freq_dim = dim, freq_dim
        self.num_frame_per_block = 1
        self.flag_causal_attention = False
        self.enable_teacache = False
        self.patch_embedding = nn.Conv3d(4, dim, kernel_size=(1, 2, 2), stride=(1, 2, 2))
        self.text_embedding = nn.Linear(6, dim)
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.fps_projection = nn.Embedding(2, 6 * dim)
        self.blocks = nn.ModuleList([Block(dim) for _ in range(layers)])
        self.head = nn.Linear(dim, 4 * 4)
        self.calls = 0
        self.frames_seen = 0
        self.fail_at = None

    @property
    def dtype(self):
        return self.head.weight.dtype

    def forward(self, x, t, context, clip_fea=None, y=None, fps=None):
        self.calls += 1
        self.frames_seen += x.shape[2]
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise RuntimeError("CUDA out of memory (a fake one)")
        batch, _, frames, height, width = x.shape
        rows, columns = height // 2, width // 2
        x = self.patch_embedding(x).flatten(2).transpose(1, 2)
        angle = t.flatten()[:, None] / 1000 * torch.arange(1, self.freq_dim // 2 + 1) * 0.5
        e = self.time_embedding(torch.cat([angle.cos(), angle.sin()], dim=1).to(self.dtype))
        e = self.time_projection(e).unflatten(1, (6, self.dim))
        fps = torch.tensor(fps, dtype=torch.long)
        e = e + self.fps_projection(fps).unflatten(1, (6, self.dim)).repeat(frames, 1, 1)
        e = e.view(batch, frames, 1, 1, 6, self.dim).repeat(1, 1, rows, columns, 1, 1).flatten(1, 3)
        e = e.transpose(1, 2).contiguous()
        context = self.text_embedding(context)
        for block in self.blocks:
            x = block(x, e=e, context=context)
        x = self.head(x).view(batch, frames, rows, columns, 2, 2, 4)
        return torch.einsum("bfhwpqc->bcfhpwq", x).reshape(batch, 4, frames, height, width).float()
