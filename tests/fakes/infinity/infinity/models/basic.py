"""Blocks of the fake: self-attention with a cache of keys and values, cross-attention to captions, feed-forward."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def plain_norm(x, scale, shift):
    return F.layer_norm(x.float(), x.shape[-1:]) * (1 + scale) + shift


class SelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.mat_qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.kv_caching(False)

    def kv_caching(self, enable):
        self.caching, self.cached_k, self.cached_v = enable, None, None

    def forward(self, x, positions, start):
        rows, length, width = x.shape
        q, k, v = self.mat_qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        place = positions[..., start : start + length, :]
        q, k = q + place, k + place
        if self.caching:
            if self.cached_k is not None:
                k, v = torch.cat((self.cached_k, k), dim=2), torch.cat((self.cached_v, v), dim=2)
            self.cached_k, self.cached_v = k, v
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, length, width))


class CrossAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mat_q, self.mat_kv, self.proj = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )

    def forward(self, q, ca_kv):
        tokens, bounds, _ = ca_kv
        bounds = bounds.tolist()
        k, v = self.mat_kv(tokens).chunk(2, dim=-1)
        rows = [slice(a, b) for a, b in pairwise(bounds)]
        asked = self.mat_q(q)
        seen = [F.scaled_dot_product_attention(asked[i : i + 1], k[None, r], v[None, r]) for i, r in enumerate(rows)]
        return self.proj(torch.cat(seen))


class FFN(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class CrossAttnBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.sa, self.ca, self.ffn = SelfAttention(width, heads), CrossAttention(width), FFN(width)
        self.ada = nn.Parameter(torch.randn(1, 1, 6, width) / width**0.5)
        self.fused_norm_func = plain_norm

    def forward(
        self, x, cond_BD, ca_kv, attn_bias_or_two_vector, attn_fn=None, scale_schedule=None, rope2d_freqs_grid=None,
        scale_ind=0,
    ):  # fmt: skip
        one, two, three, four, five, six = (self.ada + cond_BD).unbind(2)
        start, norm = sum(t * h * w for t, h, w in scale_schedule[:scale_ind]), self.fused_norm_func or plain_norm
        x = x + one * self.sa(norm(x, two, three), rope2d_freqs_grid[str(tuple(scale_schedule))], start)
        x = x + self.ca(x, ca_kv)
        return x + four * self.ffn(norm(x, five, six))
