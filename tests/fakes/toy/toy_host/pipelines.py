"""One loop in several forms."""

import torch

from .model import ToyDiT
from .scheduler import Euler


class Pipeline:
    """The scheduler is the pipeline's own."""

    def __init__(self, scheduler=None):
        self.transformer, self.scheduler = ToyDiT(), scheduler or Euler()

    @torch.no_grad()
    def __call__(self, steps=12, frames=3, start=0, overwrite=None, fill=False, stop=None):
        noise = torch.Generator("cpu").manual_seed(0)
        latents, text = torch.randn(1, 4, frames, 2, 2, generator=noise, device="cpu"), torch.ones(4, device="cpu")
        self.scheduler.set_timesteps(steps)
        if overwrite is not None:
            self.scheduler.sigmas = torch.tensor([*overwrite, 0.0])
            self.scheduler.timesteps = self.scheduler.sigmas[:-1] * 1000
        if fill:
            self.transformer(latents[:, :, :1], torch.zeros(1), text, fill=True)
        for i, t in enumerate(self.scheduler.timesteps[start:]):
            if i == stop:
                raise RuntimeError("on purpose")
            velocity = self.transformer(latents, t.expand(1), text)
            latents = self.scheduler.step(velocity, t, latents)
        return latents


class Past(Pipeline):
    """The network's method is called, and not the network."""

    @torch.no_grad()
    def __call__(self, steps=12, frames=3):
        latents, text = torch.randn(1, 4, frames, 2, 2, generator=torch.Generator().manual_seed(0)), torch.ones(4)
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            velocity = self.transformer.forward(latents, t.expand(1), text)
            latents = self.scheduler.step(velocity, t, latents)
        return latents


class LocalScheduler(Pipeline):
    """The scheduler is a local variable, and there are sections."""

    @torch.no_grad()
    def __call__(self, steps=12, sections=2):
        text, made = torch.ones(4), []
        for section in range(sections):
            latents = torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(section))
            scheduler = Euler()
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                latents = scheduler.step(self.transformer(latents, t.expand(1), text), t, latents)
            made.append(latents)
        return torch.cat(made, dim=2)


class Walked(Pipeline):
    """The steps are calls, and what makes the video is no generator."""

    def table(self, video):
        return [1000 - 80 * step for step in range(12)]

    @torch.no_grad()
    def walk(self):
        self.latents, self.text = torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.ones(4)
        for step in range(12):
            self.one(0, step)
        return self.latents

    def one(self, video, step):
        t = self.table(video)[step]
        self.latents = self.latents - 0.08 * self.transformer(self.latents, torch.tensor([float(t)]), self.text)


class Given(Pipeline):
    """Every latent frame has a timestep of its own: 0 where it is given."""

    @torch.no_grad()
    def __call__(self):
        latents, text = torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.ones(4)
        self.scheduler.set_timesteps(12)
        for t in self.scheduler.timesteps:
            timestep = torch.stack([torch.zeros(()), t, t])[None]
            velocity = self.transformer(latents, timestep, text)
            latents = torch.cat([latents[:, :, :1], self.scheduler.step(velocity, t, latents)[:, :, 1:]], dim=2)
        return latents


class Tokens(Pipeline):
    """Every token has a timestep of its own."""

    @torch.no_grad()
    def __call__(self):
        latents, text = torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.ones(4)
        self.scheduler.set_timesteps(12)
        for t in self.scheduler.timesteps:
            velocity = self.transformer(latents, t.expand(1, 12), text)
            latents = self.scheduler.step(velocity, t, latents)
        return latents


class Two(Pipeline):
    """Another network takes over half-way."""

    def __init__(self):
        super().__init__()
        self.transformer_2 = ToyDiT()

    @torch.no_grad()
    def __call__(self):
        latents, text = torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.ones(4)
        self.scheduler.set_timesteps(12)
        for i, t in enumerate(self.scheduler.timesteps):
            network = self.transformer if i < 6 else self.transformer_2
            latents = self.scheduler.step(network(latents, t.expand(1), text), t, latents)
        return latents
