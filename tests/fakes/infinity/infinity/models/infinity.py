"""A fake of the official Infinity: the loop over scales with the names that we rely on, and little of what is in it.

No draw is like upstream's, but there is one for every bit; patchify, other VAE types and training are left out.
"""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from infinity.models.basic import CrossAttnBlock
from torch import nn


class Infinity(nn.Module):
    def __init__(self, vae_local, embed_dim=32, depth=4, num_heads=2, text_channels=128, schedules=()):
        super().__init__()
        self.C, self.V, self.depth = embed_dim, 2 * vae_local.embed_dim, depth
        self.use_flex_attn, self.add_lvl_embeding_only_first_block = False, 1
        self.rng = torch.Generator()
        self.cfg_uncond = nn.Parameter(torch.randn(64, text_channels))
        self.text, self.ada_lin = nn.Linear(text_channels, embed_dim), nn.Linear(embed_dim, 6 * embed_dim)
        self.word_embed, self.lvl_embed = nn.Linear(vae_local.embed_dim, embed_dim), nn.Embedding(15, embed_dim)
        self.unregistered_blocks = [CrossAttnBlock(embed_dim, num_heads) for _ in range(depth)]
        self.block_chunks = nn.ModuleList(self.unregistered_blocks)
        self.head = nn.Linear(embed_dim, self.V)
        self.rope2d_freqs_grid = {
            str(tuple(each)): torch.randn(1, 1, sum(h * w for _, h, w in each), embed_dim // num_heads)
            for each in schedules
        }

    def get_logits(self, h, cond_BD):
        return self.head(F.layer_norm(h.float(), h.shape[-1:]) + cond_BD[:, None])

    @torch.no_grad()
    def autoregressive_infer_cfg(
        self, vae=None, scale_schedule=None, label_B_or_BLT=None, B=1, negative_label_B_or_BLT=None, g_seed=None,
        cfg_list=(), tau_list=(), top_k=0, top_p=0.0, returns_vemb=0, cfg_insertion_layer=(-5,), vae_type=0,
        ret_img=False, trunk_scale=1000, gt_leak=0, inference_mode=False,
    ):  # fmt: skip
        self.rng.manual_seed(g_seed)
        tokens, lens, bounds, longest = label_B_or_BLT
        doubled = any(np.array(cfg_list) != 1)
        if doubled:
            other, more = torch.cat([self.cfg_uncond[:n] for n in lens]), bounds
            if negative_label_B_or_BLT:
                other, _, more, _ = negative_label_B_or_BLT
            tokens, bounds = torch.cat((tokens, other)), torch.cat((bounds, more[1:] + bounds[-1]))
        ca_kv = self.text(tokens), bounds, longest
        ends = bounds.tolist()
        cond_BD = torch.stack([ca_kv[0][a:b].mean(0) for a, b in pairwise(ends)])
        gss = self.ada_lin(cond_BD).view(len(cond_BD), 1, 6, self.C)
        x, summed_codes = cond_BD[:, None], 0
        within = [self.depth + item for item in cfg_insertion_layer if item < 0]
        for b in self.unregistered_blocks:
            b.sa.kv_caching(True)
        for si, (_, height, width) in enumerate(scale_schedule):
            cfg = cfg_list[si]
            if si >= trunk_scale:
                break
            x = x + self.lvl_embed.weight[si]
            for layer, m in enumerate(self.unregistered_blocks):
                x = m(
                    x=x,
                    cond_BD=gss,
                    ca_kv=ca_kv,
                    attn_bias_or_two_vector=None,
                    attn_fn=None,
                    scale_schedule=scale_schedule,
                    rope2d_freqs_grid=self.rope2d_freqs_grid,
                    scale_ind=si,
                )
                if cfg != 1 and layer in within:
                    x = cfg * x[:B] + (1 - cfg) * x[B:]
                    x = torch.cat((x, x))
            if cfg != 1 and 0 in cfg_insertion_layer:
                logits = self.get_logits(x, cond_BD)
                logits = cfg * logits[:B] + (1 - cfg) * logits[B:]
            else:
                logits = self.get_logits(x[:B], cond_BD[:B])
            chances = (logits / tau_list[si]).unflatten(-1, (-1, 2)).softmax(-1)[..., 1]
            bits = (torch.rand(chances.shape, generator=self.rng) < chances).int()
            codes = vae.quantizer.lfq.indices_to_codes(bits.view(B, 1, height, width, -1), label_type="bit_label")
            summed_codes = summed_codes + F.interpolate(codes, size=scale_schedule[-1], mode="trilinear")
            if si + 1 < len(scale_schedule):
                x = (
                    F.interpolate(summed_codes, size=scale_schedule[si + 1], mode="trilinear")
                    .flatten(2)
                    .transpose(1, 2)
                )
                x = self.word_embed(x).repeat(2 if doubled else 1, 1, 1)
        for b in self.unregistered_blocks:
            b.sa.kv_caching(False)
        return [], [], vae.decode(summed_codes.squeeze(-3))
