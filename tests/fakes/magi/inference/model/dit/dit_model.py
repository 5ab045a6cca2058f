"""The toy VideoDiT: embed, blocks, final linear; and the dispatcher that makes one or three forwards of a step."""

import torch
from torch import nn

from inference.common import ModelMetaArgs
from inference.infra.distributed import parallel_state as mpu

from .dit_module import CaptionEmbedder, FinalLinear, TimestepEmbedder, TransformerBlock


class VideoDiTModel(nn.Module):
    def __init__(self, config, pre_process=True, post_process=True):
        super().__init__()
        self.model_config = model = config.model_config
        self.runtime_config = config.runtime_config
        self.engine_config = config.engine_config
        self.pre_process, self.post_process = pre_process, post_process
        patch = (model.t_patch_size, model.patch_size, model.patch_size)
        self.x_embedder = nn.Conv3d(model.in_channels, model.hidden_size, patch, stride=patch, bias=False)
        self.t_embedder = TimestepEmbedder(model)
        self.y_embedder = CaptionEmbedder(model)
        self.videodit_blocks = TransformerBlock(model)
        self.final_linear = FinalLinear(model.hidden_size, model.patch_size, model.out_channels)

    def forward_pre_process(self, x, t, y, caption_dropout_mask, xattn_mask, kv_range, **kwargs):
        x = self.x_embedder(x.float())
        batch, hidden, frames, height, width = x.shape
        chunks, dtype = kwargs["denoising_range_num"], self.model_config.params_dtype
        assert t.shape == (batch, chunks), f"timesteps {tuple(t.shape)} for {batch} rows of {chunks} chunks"
        condition = self.t_embedder(t.flatten())
        if self.engine_config.distill:
            steps = 4 / kwargs["distill_interval"] if kwargs["num_steps"] == 12 else kwargs["num_steps"] / 4
            condition = condition + self.t_embedder(torch.full((t.numel(),), float(2 * steps)))
        text, adaln = self.y_embedder(y.float(), self.training, caption_dropout_mask)
        condition = condition.unflatten(0, (batch, chunks)) + adaln[:, None]
        tokens = frames * height * width // chunks
        condition_map = torch.arange(batch * chunks).repeat_interleave(tokens).view(batch, -1).T
        weights = xattn_mask.float()  # (rows, 1, length)
        pooled = (weights @ text[:, 0])[:, 0] / weights.sum(dim=-1).clamp(min=1)
        first = frames // chunks * kwargs["slice_point"]
        angle = torch.arange(first, first + frames)[:, None] / 2.0 ** torch.arange(hidden // 2)
        positions = torch.cat([angle.cos(), angle.sin()], dim=1).repeat_interleave(height * width, dim=0)
        meta_args = ModelMetaArgs(
            H=height,
            W=width,
            slice_point=kwargs["slice_point"],
            denoising_range_num=chunks,
            range_num=kwargs["range_num"],
            extract_prefix_video_feature=kwargs.get("extract_prefix_video_feature", False),
            fwd_extra_1st_chunk=kwargs["fwd_extra_1st_chunk"],
            distill_nearly_clean_chunk=kwargs.get("distill_nearly_clean_chunk", False),
            clip_token_nums=tokens,
            k_range=kv_range,
        )
        x = x.flatten(2).permute(2, 0, 1).to(dtype)
        return x, condition.to(dtype), condition_map, pooled.to(dtype), positions.to(dtype), meta_args

    def forward_post_process(self, x, meta_args):
        x = self.final_linear(x.float())
        size = self.model_config.patch_size
        x = x.view(-1, meta_args.H, meta_args.W, x.shape[1], size, size, self.model_config.out_channels)
        return torch.einsum("thwnpqc->ncthpwq", x).flatten(5).flatten(3, 4)

    @torch.no_grad()
    def forward(
        self, x, t, y, caption_dropout_mask=None, xattn_mask=None, kv_range=None, inference_params=None, **kwargs
    ):
        x, condition, condition_map, text, positions, meta_args = self.forward_pre_process(
            x, t, y, caption_dropout_mask, xattn_mask, kv_range, **kwargs
        )
        x = self.videodit_blocks.forward(
            hidden_states=x,
            condition=condition,
            condition_map=condition_map,
            y_xattn_flat=text,
            rotary_pos_emb=positions,
            inference_params=inference_params,
            meta_args=meta_args,
        )
        return self.forward_post_process(x, meta_args)

    def forward_dispatcher(self, x, timestep, y, mask, kv_range, inference_params, **kwargs):
        assert x.shape[0] == 2
        if self.runtime_config.cfg_number == 3:
            new, width = self._guided(x, timestep, y, mask, kv_range, inference_params, **kwargs)
        elif self.runtime_config.cfg_number == 1:
            new, width = self._distilled(x, timestep, y, mask, kv_range, inference_params, **kwargs)
        else:
            raise NotImplementedError
        x = torch.cat([x[:1, :, :-width], new[:, :, -width:]], dim=2)
        return torch.cat([x, x])

    def _distilled(self, x, timestep, y, mask, kv_range, inference_params, **kwargs):
        """One forward. A nearly clean first chunk is in it twice, the second time seeing itself only."""
        rows, width = len(y) // 2, kwargs["chunk_width"]
        x, timestep, y, mask = x[:1], timestep[:1], y[:rows], mask[:rows]
        frames, extra = x.shape[2], int(kwargs["fwd_extra_1st_chunk"])
        nearly_clean = kwargs.get("distill_nearly_clean_chunk", False)
        here = slice(extra * width, (extra + 1) * width)
        if nearly_clean:
            only = slice(extra, extra + 1)
            own_range = self._own_ranges(1, x[:, :, here]) + kv_range.max()
            x = torch.cat([x, x[:, :, here]], dim=2)
            timestep = torch.cat([timestep, timestep[:, only]], dim=1)
            y, mask, kv_range = torch.cat([y, y[only]]), torch.cat([mask, mask[only]]), torch.cat([kv_range, own_range])
            kwargs["denoising_range_num"] += 1
        inference_params.update_kv_cache = True
        with_text = torch.tensor([False])
        out = self.forward(x, timestep, y, with_text, mask, kv_range, inference_params, **kwargs)
        if nearly_clean:
            out[:, :, here] = 0.7 * out[:, :, here] + 0.3 * out[:, :, frames:]
        return out[:, :, :frames], width * (kwargs["denoising_range_num"] - extra)

    def _guided(self, x, timestep, y, mask, kv_range, inference_params, **kwargs):
        """Three forwards: with text, without, and every chunk alone. Only the second writes to the cache."""
        rows, outs = len(y) // 2, []
        for row, half in enumerate((slice(0, rows), slice(rows, None))):
            inference_params.update_kv_cache = row == 1
            drop = torch.tensor([row == 1])
            out = self.forward(
                x[:1], timestep[row : row + 1], y[half], drop, mask[half], kv_range, inference_params, **kwargs
            )
            outs.append(out)
        count = kwargs["denoising_range_num"] - int(kwargs["fwd_extra_1st_chunk"])
        width = count * kwargs["chunk_width"]
        alone = torch.cat(x[:1, :, -width:].chunk(count, dim=2))
        times = timestep[:1, -count:].T
        kwargs.update(range_num=1, denoising_range_num=1, slice_point=0, fwd_extra_1st_chunk=False)
        ranges = self._own_ranges(count, alone)
        out = self.forward(alone, times, y[-count:], torch.tensor([True]), mask[-count:], ranges, None, **kwargs)
        out = torch.cat(out.chunk(count), dim=2)
        previous, text = (
            scale.repeat_interleave(kwargs["chunk_width"])[:, None, None] for scale in self._scales(times)
        )
        with_text, without = (each[:, :, -width:] for each in outs)
        return (1 - previous) * out + (previous - text) * without + text * with_text, width

    def _scales(self, times):
        """Guidance of each chunk: by previous chunks, by text."""
        config = self.runtime_config
        index = torch.searchsorted(torch.tensor(config.cfg_t_range) - 1e-7, times.flatten()) - 1
        return torch.tensor(config.prev_chunk_scales)[index], torch.tensor(config.text_scales)[index]

    def _own_ranges(self, count, chunk):
        tokens = chunk.shape[2] * chunk.shape[3] * chunk.shape[4] // self.model_config.patch_size**2
        ends = torch.arange(1, count + 1, dtype=torch.int32) * tokens
        return torch.stack([ends - tokens, ends], dim=1)


def get_dit(config):
    model = VideoDiTModel(config, pre_process=mpu.is_pipeline_first_stage(), post_process=mpu.is_pipeline_last_stage())
    return model.eval()
