"""A small causal video autoencoder with the interface the SkyReels-V2 pipeline expects of AutoencoderKLWan."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .layers import ResBlock


class FixedNoiseDistribution:
    """A posterior with the same small variance everywhere: mode() is the code, sample() adds noise of `std`."""

    def __init__(self, mean: torch.Tensor, std: torch.Tensor):
        self.mean, self.std = mean, std

    def mode(self) -> torch.Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.std * noise


class CausalMix(nn.Module):
    """Mixes each latent frame with the one before it; the first frame sees itself twice."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        clips = x.unflatten(0, (-1, frames))
        before = torch.cat([clips[:, :1], clips[:, :-1]], dim=1)
        return x + self.conv(F.silu(torch.cat([clips, before], dim=2).flatten(0, 1)))


class DemoVAE(ModelMixin, ConfigMixin):
    """[B, 3, 4F - 3, H, W] video in [-1, 1] <-> [B, z_dim, F, H/8, W/8] latents.

    A latent frame stands for four video frames, the first one for a single frame. It depends on nothing after it.
    `config.latents_mean` and `config.latents_std` are per channel, as in AutoencoderKLWan.
    """

    temperal_downsample = (False, True, True)  # upstream's spelling: three spatial halvings, two temporal ones

    @register_to_config
    def __init__(
        self,
        z_dim: int = 16,
        dim: int = 64,
        noise_std: float = 0.25,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ):
        super().__init__()
        if latents_mean is None:
            self.register_to_config(latents_mean=[0.0] * z_dim, latents_std=[1.0] * z_dim)
        wide = dim + dim // 2
        self.enc_in = nn.Conv2d(4 * 3 * 16, dim, 3, padding=1)
        self.enc16 = nn.ModuleList([ResBlock(dim)])
        self.enc_down = nn.Conv2d(4 * dim, wide, 1)
        self.enc_mix = CausalMix(wide)
        self.enc8 = nn.ModuleList([ResBlock(wide), ResBlock(wide)])
        self.enc_out = nn.Conv2d(wide, z_dim, 1)
        self.dec_in = nn.Conv2d(z_dim, wide, 3, padding=1)
        self.dec_mix = CausalMix(wide)
        self.dec8 = nn.ModuleList([ResBlock(wide), ResBlock(wide)])
        self.dec_up = nn.Conv2d(wide, 4 * dim, 1)
        self.dec16 = nn.ModuleList([ResBlock(dim), ResBlock(dim)])
        self.dec_out = nn.Conv2d(dim, 4 * 3 * 16, 3, padding=1)

    def encode_mean(self, video: torch.Tensor) -> torch.Tensor:
        """The code of a video, before the per-channel normalisation that the pipeline applies."""
        frames = (video.shape[2] - 1) // 4 + 1
        video = torch.cat([video[:, :, :1]] * 3 + [video[:, :, : 4 * frames - 3]], dim=2)
        groups = video.unflatten(2, (frames, 4)).permute(0, 2, 1, 3, 4, 5).flatten(2, 3).flatten(0, 1)
        x = self.enc_in(F.pixel_unshuffle(groups, 4))
        for block in self.enc16:
            x = block(x)
        x = self.enc_mix(self.enc_down(F.pixel_unshuffle(x, 2)), frames)
        for block in self.enc8:
            x = block(x)
        return self.enc_out(x).unflatten(0, (-1, frames)).transpose(1, 2)

    def encode(self, video: torch.Tensor, return_dict: bool = True):
        """Latent distribution of a [B, 3, 4F - 3, H, W] video in [-1, 1]."""
        mean = self.encode_mean(video)
        std = self.config.noise_std * torch.tensor(self.config.latents_std).to(mean).view(1, -1, 1, 1, 1)
        distribution = FixedNoiseDistribution(mean, std)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def decode(self, z: torch.Tensor, return_dict: bool = True):
        """[B, z_dim, F, h, w] latents, not normalised, to a [B, 3, 4F - 3, 8h, 8w] video."""
        frames = z.shape[2]
        x = self.dec_mix(self.dec_in(z.transpose(1, 2).flatten(0, 1)), frames)
        for block in self.dec8:
            x = block(x)
        x = F.pixel_shuffle(self.dec_up(x), 2)
        for block in self.dec16:
            x = block(x)
        groups = F.pixel_shuffle(self.dec_out(F.silu(x)), 4)
        video = groups.unflatten(0, (-1, frames)).unflatten(2, (3, 4)).permute(0, 2, 1, 3, 4, 5).flatten(2, 3)
        video = video[:, :, 3:]
        return DecoderOutput(sample=video) if return_dict else (video,)
