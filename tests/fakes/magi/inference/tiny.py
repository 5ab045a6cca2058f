"""For tests: a tiny model with random weights, and videos made with it."""

from types import SimpleNamespace

import torch

from inference.model.dit import get_dit
from inference.pipeline import video_generate


def make_config(cfg, dtype, **options):
    """`options` override whichever of the three parts has the attribute."""
    model = dict(
        num_layers=2, hidden_size=16, num_attention_heads=2, num_query_groups=2, kv_channels=8, x_rescale_factor=1,
        half_channel_vae=False, params_dtype=dtype, patch_size=2, t_patch_size=1, in_channels=16, out_channels=16,
        caption_channels=6, caption_max_length=8,
    )  # fmt: skip
    runtime = dict(
        cfg_number=cfg, cfg_t_range=[0.0, 0.0217, 0.1, 0.3, 0.999], prev_chunk_scales=[1.5, 1.5, 1.5, 1.0, 1.0],
        text_scales=[7.5, 7.5, 7.5, 0.0, 0.0], noise2clean_kvrange=[5, 4, 3, 2], clean_chunk_kvrange=1, clean_t=0.9999,
        seed=1234, num_frames=96, video_size_h=32, video_size_w=32, num_steps=16, window_size=4, fps=24, chunk_width=6,
        temporal_downsample_factor=4,
    )  # fmt: skip
    engine = dict(
        pp_size=1, cp_size=1, cp_strategy="none", fp8_quant=False, distill=cfg == 1, kv_offload=True,
        distill_nearly_clean_chunk_threshold=0.3, shortcut_mode="8,16,16", enable_cuda_graph=False,
    )  # fmt: skip
    for name, value in options.items():
        part = next((part for part in (model, runtime, engine) if name in part), None)
        if part is None:
            raise TypeError(f"no part of the configuration has {name}")
        part[name] = value
    parts = {"model_config": model, "runtime_config": runtime, "engine_config": engine}
    return SimpleNamespace(**{name: SimpleNamespace(**part) for name, part in parts.items()})


def make_model(cfg=1, num_steps=16, num_frames=96, window=4, dtype=torch.float32, seed=0, **options):
    """cfg 1: the distilled model; 3: the base one. The velocity is about -0.8 x and a part that follows t."""
    config = make_config(cfg, dtype, num_steps=num_steps, num_frames=num_frames, window_size=window, **options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_dit(config).requires_grad_(False)
        embed, head = model.x_embedder.weight, model.final_linear.linear.weight
        embed.copy_(torch.linalg.qr(torch.randn(embed[0].numel(), len(embed)))[0].T.reshape(embed.shape))
        back = embed.permute(2, 3, 4, 1, 0).reshape(head.shape)  # the head's rows are (row, column, channel)
        head.copy_(0.15 * torch.randn(head.shape) - 0.8 * back)
    model.t_embedder.mlp[2].weight.mul_(3.0)
    for layer in model.videodit_blocks.layers:
        layer.ada_modulate_layer[1].weight.mul_(2.0)  # gates follow t, and stay open
        layer.ada_modulate_layer[1].bias.fill_(1.0)
    model.videodit_blocks.to(dtype)
    return model


def make_inputs(model, seed=1, prefix_frames=0):
    """(prefix_video, caption_embs, emb_masks) for generate_per_chunk; `prefix_frames` counts pixels' frames."""
    config, runtime, generator = model.model_config, model.runtime_config, torch.Generator().manual_seed(seed)
    captions = torch.randn(1, 1, config.caption_max_length, config.caption_channels, generator=generator)
    masks = (torch.arange(config.caption_max_length) < 5).long()[None]
    if not prefix_frames:
        return None, captions, masks
    frames = max(1, prefix_frames // runtime.temporal_downsample_factor)
    size = (frames, runtime.video_size_h // 8, runtime.video_size_w // 8)
    return 0.7 * torch.randn(1, config.in_channels, *size, generator=generator), captions, masks


def stream(model, seed=1, prefix_frames=0):
    """The clean chunks of one video as they come; stop early for an interrupted run."""
    torch.manual_seed(seed)
    yield from video_generate.generate_per_chunk(model, *make_inputs(model, seed, prefix_frames))


def generate(model, seed=1, prefix_frames=0):
    """Latents [1, 16, frames, 4, 4] of one video."""
    return torch.cat(list(stream(model, seed, prefix_frames)), dim=2)


def generate_several(model, seed=1, prefix_frames=(0, 0)):
    """Latents of several videos whose steps interleave (upstream: with pipeline stages only)."""
    inputs = [
        video_generate.extract_feature_for_inference(model, *make_inputs(model, seed + index, frames))
        for index, frames in enumerate(prefix_frames)
    ]
    torch.manual_seed(seed)
    videos = [[] for _ in inputs]
    for index, _, chunk in video_generate.SampleTransport(model, inputs, "cpu").walk():
        videos[index].append(chunk)
    return [torch.cat(chunks, dim=2) for chunks in videos]
