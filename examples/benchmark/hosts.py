"""The hosts that are measured, by name: their weights and prompts, and how they make a film."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from . import prompts

EXAMPLES = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Host:
    """Weights of ours in a loop that is not.

    Attributes:
        dit, vae: folders of weights.
        filmed: prompts; none of them is among those on which a default was chosen.
        chosen_on: those prompts.
        masked: block-causal, as diffusers has it; otherwise full attention, the official repository's default.
        magi: forwards a step in the official loop of MAGI-1, from a clone: 3 with guidance, 1 without; 0: another loop.
    """

    dit: Path
    vae: Path
    filmed: Sequence[str]
    chosen_on: Sequence[str]
    masked: bool = False
    magi: int = 0


DEMO = "demo"
_SHAPES, _PHYSICS = EXAMPLES / "demo_model" / "weights", EXAMPLES / "physics" / "weights"
_MAGI = EXAMPLES / "magi_demo"
HOSTS = {
    DEMO: Host(_SHAPES / "dit", _SHAPES / "vae", prompts.PROMPTS, prompts.TUNING, masked=True),
    "demo, full attention": Host(_SHAPES / "dit", _SHAPES / "vae", prompts.PROMPTS, prompts.TUNING),
    "physics": Host(_PHYSICS / "dit", _PHYSICS / "vae", prompts.PHYSICS, prompts.PHYSICS_TUNING),
    "magi": Host(_MAGI / "weights", _PHYSICS / "vae", prompts.PHYSICS, prompts.PHYSICS_TUNING, magi=3),
    "magi, distilled": Host(_MAGI / "distilled", _PHYSICS / "vae", prompts.PHYSICS, prompts.PHYSICS_TUNING, magi=1),
}


class Film(NamedTuple):
    """How a host makes one.

    Attributes:
        target: what is patched.
        dit: whose work is counted.
        sample: (prompt, seed=, and options of the host) -> latents.
        decode: latents -> frames, uint8 [F, H, W, 3].
    """

    target: Any
    dit: nn.Module
    sample: Callable[..., Tensor]
    decode: Callable[[Tensor], Tensor]


def film(name: str) -> Film:
    """A host, once warm: the first generation of a process is slow."""
    from demo_model import pipeline

    host = HOSTS[name or DEMO]
    if not host.magi:
        pipe = build(name)
        return Film(
            pipe, pipe.transformer, partial(pipeline.sample, pipe), lambda latents: pipeline.decode(pipe, latents)[0]
        )
    from magi_demo import sampling

    model, vae = sampling.load(host.dit), pipeline.load_vae(host.vae.parent)
    sampling.sample(model, host.filmed[0], num_frames=24, steps=4)
    sample = partial(sampling.sample, model, cfg=host.magi)
    return Film(model, model, sample, lambda latents: pipeline.frames(vae, latents)[0])


def build(name: str, weights: Path | None = None) -> Any:
    """The pipeline of a host in diffusers, once warm. `weights`: a folder with `dit` and `vae` in place of its own."""
    from demo_model import pipeline, text
    from physics.words import KNOWN

    host = HOSTS[name or DEMO]
    known = KNOWN if host.filmed is prompts.PHYSICS else text.SHAPES
    pipe = pipeline.build_pipeline(weights or host.dit.parent, known=known, masked=host.masked)
    pipe.set_progress_bar_config(disable=True)
    pipeline.sample(pipe, host.filmed[0], num_frames=17, num_inference_steps=2, ar_step=1)
    return pipe


@cache
def fingerprint(names: frozenset[str]) -> str:
    """Ten letters of the hosts' weights: a reference of other weights is no reference."""
    found = hashlib.sha256()
    for folder in sorted({folder for name in names for folder in (HOSTS[name or DEMO].dit, HOSTS[name or DEMO].vae)}):
        for path in sorted(folder.glob("*.safetensors")):
            found.update(path.read_bytes())
    return found.hexdigest()[:10]
