"""Trajectories of the unpatched small models: what went into the DiT at every iteration, and what came out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Iteration(NamedTuple):
    """The DiT's arguments (of the conditional branch), which latent frames are updated [F], and {branch: velocity}.

    Velocities are [1, C, F, h, w]; branches are cond, uncond, and guided.
    """

    inputs: dict
    mask: Tensor
    velocity: dict[str, Tensor]

    @property
    def levels(self) -> Tensor:
        """Noise levels of the latent frames, float64 [F]."""
        return self.inputs["timestep"][0].double() / 1000


class Recorder:
    """`with Recorder(pipe) as run:` one generation with guidance; then `run.iterations()`."""

    def __init__(self, pipe) -> None:
        self.pipe, self.calls = pipe, []
        self.schedule, self.forward = pipe.generate_timestep_matrix, pipe.transformer.forward

    def __enter__(self) -> Recorder:
        def schedule(*args, **kwargs):
            out = self.schedule(*args, **kwargs)
            self.mask = out[2]
            return out

        def forward(*args, **kwargs):
            out = self.forward(*args, **kwargs)
            self.calls.append((kwargs, out[0]))
            return out

        self.pipe.generate_timestep_matrix, self.pipe.transformer.forward = schedule, forward
        return self

    def __exit__(self, *_: object) -> None:
        del self.pipe.generate_timestep_matrix, self.pipe.transformer.forward

    def iterations(self) -> Iterator[Iteration]:
        scale = self.pipe.guidance_scale
        for mask, (inputs, cond), (_, uncond) in zip(self.mask, self.calls[::2], self.calls[1::2], strict=True):
            guided = uncond + scale * (cond - uncond)
            yield Iteration(inputs, mask, {"cond": cond, "uncond": uncond, "guided": guided})


def record(pipe, prompt: str, **options) -> tuple[Recorder, Tensor]:
    """A generation of the demo pipeline and its latents."""
    from demo_model import pipeline

    with Recorder(pipe) as run:
        latents = pipeline.sample(pipe, prompt, **options)
    return run, latents


def record_magi(film, prompt: str, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(noise levels [steps], velocities [steps, elements]) of every chunk in every stage of the official loop.

    A stage is the steps between two changes of the window: there others are seen, and guidance changes.
    """
    import torch

    model, found = film.dit, {}
    whole, stage = model.forward_dispatcher, 0

    def forward(x, timestep, *args, **named):
        nonlocal stage
        out = whole(x, timestep, *args, **named)
        first = int(named["fwd_extra_1st_chunk"])  # a finished chunk goes along
        stage += (named["slice_point"] + first, named["range_num"]) != forward.window
        forward.window = named["slice_point"] + first, named["range_num"]
        parts = out[0].unflatten(1, (-1, named["chunk_width"])).transpose(0, 1)[first:]
        for chunk, (t, velocity) in enumerate(zip(timestep[0, first:], parts, strict=True), start=forward.window[0]):
            found.setdefault((chunk, stage), []).append((1 - t.double(), velocity.flatten().double()))
        return out

    forward.window = (-1, -1)
    model.forward_dispatcher = forward
    try:
        film.sample(prompt, seed=seed)
    finally:
        del model.forward_dispatcher
    return [tuple(map(torch.stack, zip(*steps, strict=True))) for steps in found.values()]
