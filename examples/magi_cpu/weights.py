"""Random weights for a tiny MAGI-1 whose velocity is smooth in the timestep."""

from __future__ import annotations

import zlib


def init_weights(model, seed=7):
    """Random weights, the same for a given config whatever the parallel layout, with a velocity that is smooth in t.

    Fan-in scaled Gaussians, except:
      * t_embedder's first layer is damped at high frequencies (raw, it sees sin(1000 t)) ;
      * the gates sit near tanh(1) and vary with t instead of changing sign at random ;
      * post-norms are scaled to 0.3, so that a sub-layer changes the residual stream moderately ;
      * the output layer reads "-x" back out of the residual stream and adds a random part: as for a trained
        flow model the velocity then opposes the noise in x and is not zero.
    """
    import torch
    from inference.infra.distributed import parallel_state as mpu

    offset = mpu.get_pp_rank() * len(model.videodit_blocks.layers)
    hidden = model.model_config.hidden_size

    def gaussian(name, shape, std):
        g = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
        return torch.randn(shape, generator=g) * std

    # patch embedding with orthonormal rows or columns; layout (hidden, C, pT, pH, pW)
    shape = model.x_embedder.weight.shape
    embed = torch.linalg.qr(
        gaussian("x_embedder", (max(shape[0], shape[1:].numel()), min(shape[0], shape[1:].numel())), 1.0)
    )[0]
    embed = embed if embed.shape == (shape[0], shape[1:].numel()) else embed.T

    for name, p in model.named_parameters():
        parts = name.split(".")
        if "layers" in parts:
            i = parts.index("layers") + 1
            parts[i] = str(int(parts[i]) + offset)
        full = ".".join(parts)
        if name == "rope.bands":
            continue  # upstream's default
        if parts[-1] in ("weight_scale", "input_scale", "smooth_scale"):  # of fp8 layers
            value = torch.ones(p.shape)
        elif name == "x_embedder.weight":
            value = embed.reshape(shape)
        elif name == "final_linear.linear.weight":  # rows in (pT pH pW C) order
            random = gaussian(full, p.shape, 0.7 / hidden**0.5)
            value = random - 0.8 * embed.reshape(shape).permute(2, 3, 4, 1, 0).reshape(p.shape)
        elif name == "t_embedder.mlp.0.weight":
            half = p.shape[1] // 2
            omega = 1000.0 * 10000.0 ** (-torch.arange(half) / half)
            damp = (1 / (1 + (omega / 3.0) ** 2)).repeat(2)
            value = gaussian(full, p.shape, 1.0) * damp / damp.norm() * 2
        elif "post_norm.weight" in name:
            value = torch.full(p.shape, -0.7)  # apply_layernorm_1p: the scale is 1 + weight
        elif ("layernorm" in name and parts[-1] in ("weight", "bias")) or "post_norm.bias" in name:
            value = torch.zeros(p.shape)
        elif ".layer_norm." in name:
            value = torch.full(p.shape, float(parts[-1] == "weight"))
        elif "ada_modulate_layer.proj.0.bias" in name:
            value = torch.ones(p.shape)
        elif "ada_modulate_layer.proj.0.weight" in name:
            value = gaussian(full, p.shape, 0.5 / p.shape[1] ** 0.5)
        elif p.dim() == 1:
            value = gaussian(full, p.shape, 0.1)
        elif name == "y_embedder.null_caption_embedding":
            value = gaussian(full, p.shape, 1.0)
        else:
            value = gaussian(full, p.shape, 1 / p.shape[1] ** 0.5)
        with torch.no_grad():
            p.copy_(value)
