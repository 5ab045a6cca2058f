"""The DiT for training: upstream's parameters by name and shape, and a forward over whole clips at once.

Upstream (inference/model/dit) runs a window of chunks against a cache of clean keys and values. Here clean chunks stand
in the same sequence, and `sees` says which chunk reads whose keys: the same numbers (check.py), one backward for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

CHUNK = 6  # latent frames that share a noise level
CLEAN_T = 0.9999  # the time that a finished chunk's keys and values are made with
NULL_TOKENS = 50  # of the null caption, that are read (upstream: _process_null_embeddings)
EPS = 1e-6
WAVES = 256  # inputs of the time embedding, cosines and then sines
TIMESTEPS = 1000  # in one unit of t
SHORTEST_WAVE = 1000.0  # timesteps; shorter waves of the time embedding are not listened to


@dataclass(frozen=True)
class Sizes:
    """What differs from upstream's 4.5B configuration, under its names."""

    num_layers: int = 8
    hidden_size: int = 128
    ffn_hidden_size: int = 512
    num_attention_heads: int = 4
    num_query_groups: int = 2
    kv_channels: int = 32
    cond_hidden_ratio: float = 1.0  # a quarter of 128 would be little to tell 8 layers the time with
    caption_channels: int = 64
    caption_max_length: int = 64


class Norm(nn.Module):
    """Upstream's FusedLayerNorm with apply_layernorm_1p: the scale is 1 + weight."""

    def __init__(self, size: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight + 1, self.bias, EPS)


class TimeEmbedder(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(WAVES, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """[..., size] of times, 0 (noise) to 1 (clean)."""
        angle = t[..., None] * 10000.0 ** (-torch.arange(WAVES // 2) / (WAVES // 2)) * TIMESTEPS
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1))


def holder(**modules: nn.Module) -> nn.Module:
    """A module that only names its parts."""
    module = nn.Module()
    for name, part in modules.items():
        module.add_module(name, part)
    return module


def build_layer(sizes: Sizes) -> nn.Module:
    hidden, head = sizes.hidden_size, sizes.kv_channels
    queries, keys = head * sizes.num_attention_heads, head * sizes.num_query_groups
    linear = partial(nn.Linear, bias=False)
    projections = holder(
        layer_norm=nn.LayerNorm(hidden, EPS), q=linear(hidden, queries), qx=linear(hidden, queries),
        k=linear(hidden, keys), v=linear(hidden, keys),
    )  # fmt: skip
    attention = holder(
        linear_qkv=projections, linear_kv_xattn=linear(hidden, 2 * keys), linear_proj=linear(2 * queries, hidden),
        q_layernorm=Norm(head), q_layernorm_xattn=Norm(head), k_layernorm=Norm(head), k_layernorm_xattn=Norm(head),
    )  # fmt: skip
    return holder(
        ada_modulate_layer=holder(proj=nn.Sequential(nn.Linear(int(hidden * sizes.cond_hidden_ratio), 2 * hidden))),
        self_attention=attention,
        self_attn_post_norm=Norm(hidden),
        mlp=holder(
            layer_norm=nn.LayerNorm(hidden, EPS),
            linear_fc1=linear(hidden, sizes.ffn_hidden_size),
            linear_fc2=linear(sizes.ffn_hidden_size, hidden),
        ),
        mlp_post_norm=Norm(hidden),
    )


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of [B, N, heads, D] by cos, sin [N, 1, R]: the first 2 R features turn, the rest passes."""
    a, b, rest = x.split([cos.shape[-1], cos.shape[-1], x.shape[-1] - 2 * cos.shape[-1]], dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)


def grouped(x: torch.Tensor, groups: int) -> torch.Tensor:
    """[B, N, heads, D] queries to [B, groups, heads of a group, N, D]."""
    return x.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, G, heads of a group, N, D] queries on [B, G, M, D] keys and values; `mask` is added, [B, 1, 1, N or 1, M]."""
    # The heads of a group lie one below the other, so that their keys need not be repeated.
    scores = (q.flatten(2, 3) @ k.transpose(-1, -2)).unflatten(2, q.shape[2:4])
    weights = (scores * q.shape[-1] ** -0.5 + mask).softmax(-1).to(v.dtype)
    return (weights.flatten(2, 3) @ v).unflatten(2, q.shape[2:4])


def block_forward(layer, x, condition, context, sees, reads, rope, dtype, remember=None) -> torch.Tensor:
    """One layer on x [B, K chunks, tokens a chunk, hidden].

    condition [B, K, C], context [B, L, hidden]; sees [B, K, N] and reads [B, K, L] are added to scores; matrices are
    multiplied in `dtype`, and all else is float32. `remember` gets the chunks' keys and values [B, groups, K tokens, D]
    and puts those of earlier chunks in front, where `sees` has columns for these.
    """
    attention, mlp = layer.self_attention, layer.mlp
    linear, count = attention.linear_qkv, x.shape[1]

    def times(part: nn.Linear, y: torch.Tensor) -> torch.Tensor:
        return F.linear(y.to(dtype), part.weight.to(dtype))

    def heads(y: torch.Tensor) -> torch.Tensor:
        return y.unflatten(-1, (-1, len(attention.q_layernorm.weight)))

    gates = layer.ada_modulate_layer.proj(F.silu(condition)).tanh()[:, :, None]
    gate_attention, gate_mlp = gates.chunk(2, dim=-1)
    y = linear.layer_norm(x).flatten(1, 2)
    q = rotate(attention.q_layernorm(heads(times(linear.q, y))), *rope).to(dtype)
    k = rotate(attention.k_layernorm(heads(times(linear.k, y))), *rope).to(dtype)
    v, groups = heads(times(linear.v, y)).transpose(1, 2), k.shape[2]
    q, k = grouped(q, groups), k.transpose(1, 2)
    if remember is not None:
        k, v = remember(k, v)
    tokens, own = x.shape[2], []
    for chunk, query in enumerate(q.split(tokens, dim=3)):  # no chunk sees a younger one
        end = k.shape[2] - (count - 1 - chunk) * tokens
        mask = sees[:, None, None, chunk : chunk + 1, :end]
        own.append(attend(query, k[:, :, :end], v[:, :, :end], mask))
    q = grouped(attention.q_layernorm_xattn(heads(times(linear.qx, y))).to(dtype), groups)
    k, v = heads(times(attention.linear_kv_xattn, context)).unflatten(2, (groups, 2)).unbind(3)
    k, v = attention.k_layernorm_xattn(k).to(dtype).transpose(1, 2), v.transpose(1, 2)
    read = attend(q, k, v, reads.repeat_interleave(tokens, dim=1)[:, None, None])
    # [B, N, queries] each, then interleaved in eighths as upstream has it, from its training on eight ranks
    parts = (part.permute(0, 3, 1, 2, 4).flatten(2).unflatten(-1, (8, -1)) for part in (torch.cat(own, dim=3), read))
    y = times(attention.linear_proj, torch.stack(tuple(parts), dim=-2).flatten(2)).unflatten(1, (count, -1))
    x = x + layer.self_attn_post_norm(y * gate_attention)
    y = times(mlp.linear_fc2, F.gelu(times(mlp.linear_fc1, mlp.layer_norm(x))))
    return x + layer.mlp_post_norm(y * gate_mlp)


class VideoDiT(nn.Module):
    """Upstream's VideoDiTModel by its state_dict; `forward` is that of a training."""

    def __init__(self, sizes: Sizes | None = None):
        super().__init__()
        self.sizes = sizes = sizes or Sizes()
        hidden, condition = sizes.hidden_size, int(sizes.hidden_size * sizes.cond_hidden_ratio)
        self.x_embedder = nn.Conv3d(16, hidden, (1, 2, 2), (1, 2, 2), bias=False)
        self.t_embedder = TimeEmbedder(condition)
        self.y_embedder = holder(
            y_proj_xattn=nn.Sequential(nn.Linear(sizes.caption_channels, hidden), nn.SiLU()),
            y_proj_adaln=nn.Sequential(nn.Linear(sizes.caption_channels, condition)),
        )
        null = torch.randn(sizes.caption_max_length, sizes.caption_channels)
        self.y_embedder.null_caption_embedding = nn.Parameter(null)
        self.rope = nn.Module()
        bands = 10000.0 ** (-torch.arange(sizes.kv_channels // 8) / (sizes.kv_channels // 8))
        self.rope.register_buffer("bands", bands)  # upstream's default; not learned here
        layers = nn.ModuleList([build_layer(sizes) for _ in range(sizes.num_layers)])
        self.videodit_blocks = holder(layers=layers, final_layernorm=Norm(hidden))
        self.final_linear = holder(linear=nn.Linear(hidden, 64, bias=False))
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """A residual stream that its layers change little at first, open gates, and a velocity of zero."""
        for layer in self.videodit_blocks.layers:
            gates = layer.ada_modulate_layer.proj[0]
            gates.weight.mul_(0.3)  # what follows normalises a product with them: they must stay away from zero
            nn.init.ones_(gates.bias)
            for norm in (layer.self_attn_post_norm, layer.mlp_post_norm):
                norm.weight.fill_(-0.8)
        nn.init.zeros_(self.final_linear.linear.weight)
        low_pass_(self)

    def rope_tables(self, frames: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(cosines, sines), [N, 1, R]. Frames count from the clip's first: only distances matter."""
        # Upstream stretches height and width as if there were 16 x 16 tokens, measured from the middle.
        scale = 16 / math.sqrt(height * width)
        axes = [torch.arange(frames).float()]
        axes += [(torch.arange(n) - (n - 1) / 2) / (n - 1) * (scale * n - 1) for n in (height, width)]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        angle = (grid[..., None] * self.rope.bands).flatten(3).flatten(0, 2)[:, None]
        return angle.cos(), angle.sin()

    def forward(
        self, x, t, text, lengths, reads_text, says_text, sees, dtype=torch.float32, block_forward=block_forward
    ) -> torch.Tensor:
        """Velocity [B, 16, T, h, w], clean - noise, of latents x of that shape, T = 6 K.

        Args:
            t: [B, K], 0 noise to 1 clean; CLEAN_T for a finished chunk.
            text: [B, L, channels], of which `lengths` [B] tokens count.
            reads_text: [B, K] bool: cross-attention to the text, or else to the null caption.
            says_text: [B, K] bool: which of the two single tokens is added to the time (text, no text).
            sees: [B, K, K] bool: [b, i, j], chunk i reads chunk j's keys; j <= i, and itself always. [B, K, H + K]
                where `block_forward` puts the keys of H earlier chunks in front.
        """
        x = self.x_embedder(x)
        batch, _, frames, height, width = x.shape
        tokens = CHUNK * height * width
        x = x.flatten(2).transpose(1, 2).unflatten(1, (-1, tokens))
        null = self.y_embedder.null_caption_embedding
        single = torch.where(says_text[..., None], null[-2], null[-1])
        condition = self.t_embedder(t) + self.y_embedder.y_proj_adaln(single)
        context = torch.cat([text.float(), null[:NULL_TOKENS].expand(batch, -1, -1)], dim=1)
        context = self.y_embedder.y_proj_xattn(context)
        words = torch.arange(text.shape[1]) < lengths[:, None]
        reads = torch.cat(
            [reads_text[:, :, None] & words[:, None], ~reads_text[:, :, None].expand(-1, -1, NULL_TOKENS)], dim=-1
        )
        before = (sees.shape[2] - sees.shape[1]) * CHUNK
        sees, reads = (
            torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
            for mask in (sees.repeat_interleave(tokens, dim=2), reads)
        )
        rope = tuple(table[before * height * width :] for table in self.rope_tables(before + frames, height, width))
        for layer in self.videodit_blocks.layers:
            x = block_forward(layer, x, condition, context, sees, reads, rope, dtype)
        x = self.final_linear.linear(self.videodit_blocks.final_layernorm(x)).flatten(1, 2)
        x = x.reshape(batch, frames, height, width, 2, 2, 16).permute(0, 6, 1, 2, 4, 3, 5)
        return x.flatten(5, 6).flatten(3, 4)


@torch.no_grad()
def low_pass_(model: VideoDiT, shortest_wave: float = SHORTEST_WAVE) -> None:
    """Zero the weights that read fast waves of the time, as demo_model/dit.py does, for the same reason."""
    weight = model.t_embedder.mlp[0].weight
    wave = 2 * math.pi * 10000.0 ** (torch.arange(WAVES // 2) / (WAVES // 2))  # timesteps
    weight.mul_((wave >= shortest_wave).repeat(2).to(weight))


def save_model(model: VideoDiT, path: Path) -> None:
    """Parameters in half precision, by upstream's names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    halved = {name: p.detach().half().contiguous() for name, p in model.named_parameters()}
    save_file({**halved, "rope.bands": model.rope.bands}, path)


def load_model(path: Path) -> VideoDiT:
    """A trained model, to be run in float32."""
    weights = load_file(path)
    layers = {name.split(".")[2] for name in weights if name.startswith("videodit_blocks.layers.")}
    model = VideoDiT(Sizes(num_layers=len(layers)))
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)
