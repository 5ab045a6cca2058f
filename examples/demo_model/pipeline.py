"""Put the demo model into diffusers' unmodified SkyReelsV2DiffusionForcingPipeline, and call it with its defaults."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Transformer3DModel, UniPCMultistepScheduler
from torch import nn

from .clips import SIZE
from .dit import BLOCK, build_dit, low_pass_
from .text import MAX_TOKENS, SHAPES, DemoTextEncoder, DemoTokenizer, Vocabulary
from .vae import DemoVAE

WEIGHTS = Path(__file__).resolve().parent / "weights"
BASE_NUM_FRAMES = 97  # video frames of one segment: 25 latent frames, five blocks of five
OVERLAP_HISTORY = 17  # video frames a segment of a long video takes over from the one before
DEFAULTS = dict(num_inference_steps=50, guidance_scale=3.0, ar_step=5, causal_block_size=BLOCK, fps=24)
SHIFT = 3.0  # of the noise levels, towards noise
NEGATIVE_PROMPT = ""


def load_dit(weights: Path | str = WEIGHTS) -> SkyReelsV2Transformer3DModel:
    """The trained DiT from WEIGHTS/dit, in float32; random weights, with a warning, where there are none."""
    folder = Path(weights) / "dit"
    if (folder / "config.json").exists():
        dit = SkyReelsV2Transformer3DModel.from_pretrained(folder, torch_dtype=torch.float32)
    else:
        warnings.warn(f"no trained DiT in {folder}: random weights, the video will be noise", stacklevel=2)
        torch.manual_seed(0)
        dit = build_dit()
        low_pass_(dit)
        nn.init.normal_(dit.proj_out.weight, std=0.02)
    return dit.eval().requires_grad_(False)


def load_vae(weights: Path | str = WEIGHTS) -> DemoVAE:
    """The trained video autoencoder from WEIGHTS/vae, in float32."""
    return DemoVAE.from_pretrained(Path(weights) / "vae", torch_dtype=torch.float32).eval().requires_grad_(False)


def build_pipeline(
    weights: Path | str = WEIGHTS, shift: float = SHIFT, known: Vocabulary = SHAPES, masked: bool = True
) -> SkyReelsV2DiffusionForcingPipeline:
    """The stock pipeline around the modules in WEIGHTS/dit and WEIGHTS/vae, on the CPU in float32.

    `masked`: block-causal, as diffusers makes its DiT wherever blocks are asked for. Otherwise every latent frame sees
    all others, the default of the official repository; diffusers has no option for it, so its switch is held.

    Call it with `max_sequence_length=MAX_TOKENS` (it pads prompts with zeros to 512 otherwise, and attends to them),
    or through `sample`, which does.
    """
    dit = load_dit(weights)
    if not masked:
        dit.register_to_config(num_frame_per_block=1)
        dit._set_ar_attention = lambda size: None
    return SkyReelsV2DiffusionForcingPipeline(
        tokenizer=DemoTokenizer(known),
        text_encoder=DemoTextEncoder(known),
        transformer=dit,
        vae=load_vae(weights),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=shift
        ),
    )


def fitting_num_frames(num_frames: int, block: int = BLOCK) -> int:
    """The nearest number of video frames, not smaller, that makes whole blocks of latent frames."""
    latent_frames = (max(num_frames, 1) - 1 + 3) // 4 + 1
    return 4 * (-(-latent_frames // block) * block - 1) + 1


def sample(
    pipe: SkyReelsV2DiffusionForcingPipeline,
    prompt: str,
    negative_prompt: str = NEGATIVE_PROMPT,
    num_frames: int = BASE_NUM_FRAMES,
    seed: int = 0,
    **options,
) -> torch.Tensor:
    """Run the pipeline and return its latents, [1, 16, F, 8, 8], as it denoised them (normalised).

    `options` override DEFAULTS and go to the pipeline's call unchanged.
    """
    options = {**DEFAULTS, "base_num_frames": BASE_NUM_FRAMES, **options}
    if num_frames > options["base_num_frames"]:
        options.setdefault("overlap_history", OVERLAP_HISTORY)
    return pipe(
        prompt=prompt,
        negative_prompt=negative_prompt,
        height=SIZE,
        width=SIZE,
        num_frames=num_frames,
        generator=torch.Generator().manual_seed(seed),
        max_sequence_length=MAX_TOKENS,
        output_type="latent",
        return_dict=False,
        **options,
    )[0]


def decode(pipe: SkyReelsV2DiffusionForcingPipeline, latents: torch.Tensor) -> torch.Tensor:
    """Latents [B, 16, F, 8, 8] to videos [B, 4F - 3, 64, 64, 3], uint8, by the pipeline's own VAE."""
    return frames(pipe.vae, latents)


@torch.no_grad()
def frames(vae: DemoVAE, latents: torch.Tensor) -> torch.Tensor:
    """Likewise, by a VAE alone."""
    config = vae.config
    mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)
    video = vae.decode(latents.float() * std + mean, return_dict=False)[0]
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
