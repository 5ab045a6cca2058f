"""The DiT's forward once more, for training: the same numbers from the same modules, with less memory traffic.

diffusers expands the time modulation to every token; here it stays one row a latent frame, and broadcasts. Attention is
written out: torch's fused one takes half of a training step backwards on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import SkyReelsV2Transformer3DModel


def block_causal_mask(frames: int, tokens: int, block: int) -> torch.Tensor:
    """[N, N] additive mask, N = frames * tokens a frame: no frame sees a block after its own."""
    number = torch.arange(frames).div(block, rounding_mode="floor").repeat_interleave(tokens)
    return torch.zeros(len(number), len(number)).masked_fill(number[:, None] < number[None, :], float("-inf"))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of [B, heads, N, D], pairs interleaved; cos and sin are [N, D / 2]."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def attention(attn, x: torch.Tensor, context: torch.Tensor, mask, rope) -> torch.Tensor:
    """[B, N, dim] queries against [B, M, dim] context."""
    q, k, v = attn.norm_q(attn.to_q(x)), attn.norm_k(attn.to_k(context)), attn.to_v(context)
    q, k, v = (y.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for y in (q, k, v))
    if rope is not None:
        q, k = rotate(q, *rope), rotate(k, *rope)
    return attn.to_out[0](attend(q, k, v, mask).transpose(1, 2).flatten(2))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Attention of q [B, heads, N, D] to k and v [B, heads, M, D], with an additive mask that broadcasts to [N, M]."""
    scores = (q * q.shape[-1] ** -0.5).to(v.dtype) @ k.to(v.dtype).transpose(-1, -2)
    scores = scores.float() if mask is None else scores.float() + mask
    return scores.softmax(dim=-1).to(v.dtype) @ v


def rope_tables(dit: SkyReelsV2Transformer3DModel, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, [N, head_dim / 2] each, for latents of x's shape."""
    cos, sin = dit.rope(x)
    return cos[0, :, 0, 0::2].float(), sin[0, :, 0, 1::2].float()


def block_forward(block, x: torch.Tensor, modulation: torch.Tensor, context: torch.Tensor, mask, rope) -> torch.Tensor:
    """One transformer block on x [B, F, tokens a frame, dim] with modulation [B, F, 6, dim]."""
    frames = x.shape[1]
    shift, scale, gate, c_shift, c_scale, c_gate = (
        (block.scale_shift_table[:, None] + modulation).unsqueeze(3).unbind(2)
    )
    y = (block.norm1(x) * (1 + scale) + shift).flatten(1, 2)
    x = x + attention(block.attn1, y, y, mask, rope).unflatten(1, (frames, -1)) * gate
    y = block.norm2(x).flatten(1, 2)
    x = x + attention(block.attn2, y, context, None, None).unflatten(1, (frames, -1))
    return x + block.ffn(block.norm3(x) * (1 + c_scale) + c_shift) * c_gate


def fast_forward(
    dit, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, mask, rope, block_forward=block_forward, half=False
):
    """Velocity [B, C, F, h, w] of latents x at timesteps t [B, F], as dit(..., enable_diffusion_forcing=True).

    `half`: the products of the blocks in bfloat16, for which some CPUs have tiles; what goes in and out stays as it is.
    """
    embed = dit.condition_embedder
    temb = embed.time_embedder(embed.timesteps_proj(t).float())
    modulation = embed.time_proj(F.silu(temb)).unflatten(-1, (6, -1))  # [B, F, 6, dim]
    context = embed.text_embedder(text)
    x = dit.patch_embedding(x)
    batch, _, frames, height, width = x.shape
    x = x.flatten(3).permute(0, 2, 3, 1).contiguous()  # [B, F, tokens a frame, dim]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        for block in dit.blocks:
            x = block_forward(block, x, modulation, context, mask, rope)
    shift, scale = (dit.scale_shift_table[:, None] + temb[:, :, None]).unsqueeze(3).unbind(2)
    x = dit.proj_out(dit.norm_out(x.float()) * (1 + scale) + shift)
    x = x.reshape(batch, frames, height, width, 1, *dit.config.patch_size[1:], -1)
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
