"""Toy layers: gates that follow the timestep, attention over key ranges with a K/V cache, text that matters."""

import torch
import torch.nn.functional as F
from torch import nn


class TimestepEmbedder(nn.Module):
    """Sinusoids of sqrt(t): steps are close together where t is small, and the velocity changes evenly over them."""

    def __init__(self, model_config):
        super().__init__()
        self.bands = torch.arange(1, 9)
        self.mlp = nn.Sequential(
            nn.Linear(16, model_config.hidden_size),
            nn.SiLU(),
            nn.Linear(model_config.hidden_size, model_config.hidden_size),
        )

    def forward(self, t):
        angle = t.float().sqrt()[:, None] * self.bands
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=1))


class CaptionEmbedder(nn.Module):
    def __init__(self, model_config):
        super().__init__()
        self.y_proj_xattn = nn.Linear(model_config.caption_channels, model_config.hidden_size)
        self.y_proj_adaln = nn.Linear(model_config.caption_channels, model_config.hidden_size)
        self.null_caption_embedding = nn.Parameter(
            torch.randn(model_config.caption_max_length, model_config.caption_channels)
        )

    def forward(self, caption, train, caption_dropout_mask=None):
        """Per chunk (rows, 1, length, hidden), and one row an entry of the mask (with text or without)."""
        single = self.null_caption_embedding[torch.where(caption_dropout_mask, -1, -2)]
        return self.y_proj_xattn(caption), self.y_proj_adaln(single)


class FinalLinear(nn.Module):
    def __init__(self, hidden_size, patch_size, out_channels):
        super().__init__()
        self.linear = nn.Linear(hidden_size, patch_size**2 * out_channels, bias=False)

    def forward(self, x):
        return self.linear(x)


class FullyParallelAttention(nn.Module):
    def __init__(self, model_config, layer_number):
        super().__init__()
        self.layer_number = layer_number
        self.heads = model_config.num_attention_heads
        self.linear_q, self.linear_k, self.linear_v, self.linear_text, self.linear_proj = (
            nn.Linear(model_config.hidden_size, model_config.hidden_size, bias=False) for _ in range(5)
        )

    def forward(self, hidden_states, key_value_states, inference_params, rotary_pos_emb, meta_args):
        length, batch, _ = hidden_states.shape
        normed = F.layer_norm(hidden_states, hidden_states.shape[-1:])
        placed = normed + rotary_pos_emb[:, None]
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1))
            for projected in (self.linear_q(placed), self.linear_k(placed), self.linear_v(normed))
        )
        key_and_value = torch.cat([key, value], dim=-1).flatten(0, 1)
        if inference_params is not None:
            key_and_value = self.adjust_key_and_value_for_inference(key_and_value, inference_params, meta_args)
        key, value = key_and_value.unflatten(0, (-1, batch)).chunk(2, dim=-1)
        out = []
        chunks = query.split(meta_args.clip_token_nums)  # a batch of several rows has one chunk, and one range for all
        for chunk, (start, end) in zip(chunks, meta_args.k_range.tolist(), strict=batch == 1):
            rows = (chunk, key[start:end], value[start:end])
            attended = F.scaled_dot_product_attention(*(part.permute(1, 2, 0, 3) for part in rows))
            out.append(attended.permute(2, 0, 1, 3).flatten(2))
        return self.linear_proj(torch.cat(out) + self.linear_text(key_value_states))

    def adjust_key_and_value_for_inference(self, key_and_value, inference_params, meta_args):
        """Clean chunks before this forward's come from the cache, and its own chunks go there, once there is one."""
        if not (meta_args.extract_prefix_video_feature or meta_args.fwd_extra_1st_chunk or meta_args.slice_point > 0):
            return key_and_value
        memory = inference_params.key_value_memory_dict
        if self.layer_number not in memory:
            tokens = inference_params.max_sequence_length * inference_params.max_batch_size
            memory[self.layer_number] = key_and_value.new_empty(tokens, *key_and_value.shape[1:])
            memory[self.layer_number].fill_(float("nan"))  # reading what was never written shows
        cache = memory[self.layer_number]
        start = meta_args.slice_point * meta_args.clip_token_nums
        clean = cache[:start].clone()
        if inference_params.update_kv_cache:
            kept = len(key_and_value) - meta_args.clip_token_nums * meta_args.distill_nearly_clean_chunk
            assert start + kept <= len(cache)
            cache[start : start + kept] = key_and_value[:kept]
        return torch.cat([clean, key_and_value])


class TransformerLayer(nn.Module):
    def __init__(self, model_config, layer_number):
        super().__init__()
        hidden = model_config.hidden_size
        self.layer_number = layer_number
        self.ada_modulate_layer = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))
        self.self_attention = FullyParallelAttention(model_config, layer_number)
        self.mlp = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))

    def forward(
        self, hidden_states, condition, condition_map, y_xattn_flat, rotary_pos_emb, inference_params, meta_args
    ):
        """hidden_states: (tokens, batch, hidden); condition_map says which row of condition and text a token has."""
        gates = torch.tanh(self.ada_modulate_layer(condition)).flatten(0, 1)[condition_map]
        gate_msa, gate_mlp = gates.chunk(2, dim=-1)
        text = y_xattn_flat[condition_map]
        attended = self.self_attention(hidden_states, text, inference_params, rotary_pos_emb, meta_args)
        hidden_states = hidden_states + 0.3 * gate_msa * F.layer_norm(attended, attended.shape[-1:])
        made = self.mlp(hidden_states)
        return hidden_states + 0.3 * gate_mlp * F.layer_norm(made, made.shape[-1:])


class TransformerBlock(nn.Module):
    def __init__(self, model_config):
        super().__init__()
        self.layers = nn.ModuleList([TransformerLayer(model_config, i) for i in range(model_config.num_layers)])

    def forward(self, hidden_states, **arguments):
        for layer in self.layers:
            hidden_states = layer(hidden_states=hidden_states, **arguments)
        return hidden_states
