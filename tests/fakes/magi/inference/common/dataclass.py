"""What travels through the model with the tensors: the K/V cache, and where a forward's chunks lie in the video."""

from dataclasses import dataclass, field

import torch


@dataclass(eq=False)
class InferenceParams:
    max_batch_size: int
    max_sequence_length: int
    key_value_memory_dict: dict = field(default_factory=dict)  # by layer number
    update_kv_cache: bool = False


@dataclass(frozen=True)
class ModelMetaArgs:
    slice_point: int
    range_num: int
    denoising_range_num: int
    clip_token_nums: int
    k_range: torch.Tensor
    fwd_extra_1st_chunk: bool
    extract_prefix_video_feature: bool
    distill_nearly_clean_chunk: bool
    H: int
    W: int
