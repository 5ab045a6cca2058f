"""Hosts that tests run in this process: the fake of the official repository, and diffusers with tiny random weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

FAKES = Path(__file__).parent / "fakes" / "official"
FAKE_MAGI = Path(__file__).parent / "fakes" / "magi"

ALWAYS_PREDICT = {"cache_threshold": 0.0, "predict_threshold": 1e9}


def fake_pipeline(**options):
    """A new pipeline of the fake official repository."""
    if str(FAKES) not in sys.path:
        sys.path.insert(0, str(FAKES))
    from skyreels_v2_infer import pipelines

    return pipelines.DiffusionForcingPipeline(**options)


def fake_magi():
    """The helpers of the fake MAGI-1 repository: `make_model`, `generate`, `stream`, `generate_several`."""
    if str(FAKE_MAGI) not in sys.path:
        sys.path.insert(0, str(FAKE_MAGI))
    from inference import tiny

    return tiny


class CountForwards:
    """Counts what really runs inside a DiT: calls, latent frames, and block calls, by hooks on its submodules."""

    def __init__(self, model):
        self.forwards = self.frames = self.blocks = self.modules = 0
        embedding = model.patch_embedding
        self.handles = [embedding.register_forward_hook(self._embedded)]
        self.handles += [block.register_forward_pre_hook(self._block) for block in model.blocks]

    def _embedded(self, module, args, output):
        self.forwards += 1
        self.frames += args[0].shape[2]

    def _block(self, module, args):
        self.blocks += 1

    def remove(self):
        for handle in self.handles:
            handle.remove()


def tiny_transformer(**options):
    """diffusers' DiT with 2 layers and random weights that matter (its output layer starts near zero)."""
    from diffusers import SkyReelsV2Transformer3DModel

    config = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 8,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 2,
        "inject_sample_info": True,
        **options,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SkyReelsV2Transformer3DModel(**config)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def tiny_pipeline(kind="", transformer=None, **options):
    """One of diffusers' three pipelines around a tiny DiT (`options` are its configuration)."""
    import diffusers

    cls = getattr(diffusers, f"SkyReelsV2DiffusionForcing{kind}Pipeline")
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    vae = None
    if kind:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vae = diffusers.AutoencoderKLWan(
                base_dim=4,
                z_dim=4,
                dim_mult=[1, 1, 1, 1],
                num_res_blocks=1,
                latents_mean=[0.0] * 4,
                latents_std=[1.0] * 4,
            ).eval()
    pipe = cls(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=scheduler,
        transformer=transformer or tiny_transformer(**options),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeddings(batch=1, dtype=torch.float32):
    """(prompt embeddings, negative ones)."""
    generator = torch.Generator().manual_seed(5)
    made = torch.randn(2, batch, 4, 8, generator=generator).to(dtype)
    return {"prompt_embeds": made[0], "negative_prompt_embeds": made[1]}


def generate(pipe, seed=0, batch=1, **options):
    """Latents of a short video on a tiny pipeline: 15 latent frames in 3 blocks, 12 steps."""
    arguments = {
        "height": 32,
        "width": 32,
        "num_frames": 57,
        "num_inference_steps": 12,
        "guidance_scale": 3.0,
        "ar_step": 3,
        "causal_block_size": 5,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(seed),
        "max_sequence_length": 4,
        **embeddings(batch, pipe.transformer.dtype),
        **options,
    }
    torch.manual_seed(seed)
    return pipe(prompt=None, **arguments).frames
