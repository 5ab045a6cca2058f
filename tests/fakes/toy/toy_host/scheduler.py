"""Euler steps, and one that calls the model twice a step."""

import torch


class Euler:
    order = 1

    def set_timesteps(self, steps):
        self.sigmas = torch.linspace(1, 0, steps + 1, device="cpu")
        self.timesteps = self.sigmas[:-1] * 1000
        self.done = 0

    def step(self, velocity, t, latents):
        self.done += 1
        return latents + (self.sigmas[self.done] - self.sigmas[self.done - 1]) * velocity


class Heun(Euler):
    order = 2


class Other:
    """No loop here uses it."""

    def set_timesteps(self, steps):
        self.sigmas, self.timesteps = torch.linspace(1, 0, steps + 1), torch.linspace(1000, 0, steps)

    def step(self, velocity, t, latents):
        return latents


class Rising(Euler):
    def set_timesteps(self, steps):
        super().set_timesteps(steps)
        self.sigmas, self.timesteps = self.sigmas.flip(0), self.timesteps.flip(0)
