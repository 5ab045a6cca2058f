"""What one video is generated from: text for every chunk, with and without; the prefix; sizes."""

import math
from dataclasses import dataclass, field

import torch

NULL_TOKENS = 50  # of the null caption, that are read


@dataclass(frozen=True)
class InferenceInput:
    caption_embs: torch.Tensor
    emb_masks: torch.Tensor  # (2, chunks, length): with text, without
    y: torch.Tensor  # (2, chunks, length, channels)
    prefix_video: torch.Tensor | None  # (1, channels, frames, height, width), latents
    latent_size: tuple
    t_schedule_config: dict = field(default_factory=dict)
    num_steps: int | None = None
    chunk_num: int | None = None

    @property
    def prefix_frames(self):
        return 0 if self.prefix_video is None else self.prefix_video.size(2)


@torch.inference_mode()
def extract_feature_for_inference(model, prefix_video, caption_embs, emb_masks):
    """caption_embs: (1, 1, length, channels); emb_masks: (1, length)."""
    config = model.runtime_config
    prefix = 0 if prefix_video is None else prefix_video.size(2)
    frames = config.num_frames // config.temporal_downsample_factor + prefix
    chunks, clean = math.ceil(frames / config.chunk_width), prefix // config.chunk_width
    null = model.y_embedder.null_caption_embedding[None, None].repeat(1, chunks, 1, 1)
    null_masks = torch.zeros(1, chunks, emb_masks.size(1), dtype=emb_masks.dtype)
    null_masks[:, :, :NULL_TOKENS] = 1
    captions = torch.cat([null[:, :clean], caption_embs.repeat(1, chunks - clean, 1, 1)], dim=1)
    caption_masks = emb_masks[:, None].repeat(1, chunks, 1)
    caption_masks[:, :clean] = 0
    if emb_masks.sum() == 0:  # no text
        captions, caption_masks = null, null_masks
    size = (chunks * config.chunk_width, config.video_size_h // 8, config.video_size_w // 8)
    return InferenceInput(
        caption_embs=captions,
        emb_masks=torch.cat([caption_masks, null_masks]),
        y=torch.cat([captions, null]),
        prefix_video=prefix_video,
        latent_size=(1, model.model_config.in_channels, *size),
        num_steps=config.num_steps,
        chunk_num=chunks,
    )
