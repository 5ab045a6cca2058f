"""The trained weights in upstream's class, and one way to call it: a prompt, a seed, a picture."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from . import upstream
from .autoencoder import BITS, Autoencoder
from .pictures import caption, embed

WEIGHTS = Path(__file__).resolve().parent / "weights"
CFG, TAU = 3.0, 0.7


def load_autoencoder(weights: Path = WEIGHTS) -> Autoencoder:
    """In float32. Raises FileNotFoundError where nobody has trained one."""
    vae = Autoencoder()
    fill(vae, weights / "autoencoder.safetensors")
    return vae


def load(weights: Path = WEIGHTS):
    """(upstream's model, the autoencoder), both in float32; `upstream.prepare` comes first.

    The model's `trained`: scales of the schedule that it was trained for.
    """
    vae = load_autoencoder(weights)
    model = upstream.build(vae)
    fill(model, weights / "transformer.safetensors")
    model.trained = json.loads((weights / "training.json").read_text())["scales"]
    return model, vae


def fill(module: torch.nn.Module, path: Path) -> None:
    """Weights into a module of their names; what they do not have are constants of its class."""
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    if set(tensors) != {name for name, _ in module.named_parameters()}:
        raise ValueError(f"{path} has other parameters than the module: train again")
    torch.nn.Module.load_state_dict(module, tensors, strict=False)
    module.eval().requires_grad_(False)


@torch.no_grad()
def generate(
    model, vae, prompts: list[str], seed: int, cfg: float | list[float] = CFG, tau: float = TAU
) -> torch.Tensor:
    """Pictures [len(prompts), 64, 64, 3], uint8, by upstream's unmodified loop."""
    scales = upstream.schedule()
    guidance = list(cfg) if isinstance(cfg, list) else [cfg] * len(scales)
    _, _, images = model.autoregressive_infer_cfg(
        vae=vae, scale_schedule=scales, label_B_or_BLT=caption(embed(prompts)), B=len(prompts), g_seed=seed,
        cfg_list=guidance, tau_list=[tau] * len(scales), top_k=900, top_p=0.97, returns_vemb=1, cfg_insertion_layer=[0],
        vae_type=BITS, ret_img=True, inference_mode=True, trunk_scale=model.trained,
    )  # fmt: skip
    return images.flip(dims=(3,))  # upstream hands out BGR
