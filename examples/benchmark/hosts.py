"""The hosts that are measured, by name: weights, prompts, and what the first generation of a process waits for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import prompts

EXAMPLES = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Host:
    """A diffusers pipeline around weights of ours.

    Attributes:
        weights: folder with `dit` and `vae`.
        masked: block-causal, as diffusers has it; otherwise full attention, the official repository's default.
        filmed: prompts; none of them is among those on which a default was chosen.
    """

    weights: Path
    masked: bool
    filmed: Sequence[str]

    @property
    def physics(self) -> bool:
        return self.filmed is prompts.PHYSICS


DEMO = "demo"
HOSTS = {
    DEMO: Host(EXAMPLES / "demo_model" / "weights", True, prompts.PROMPTS),
    "demo, full attention": Host(EXAMPLES / "demo_model" / "weights", False, prompts.PROMPTS),
    "physics": Host(EXAMPLES / "physics" / "weights", False, prompts.PHYSICS),
}


def build(name: str, weights: Path | None = None) -> Any:
    """The pipeline of a host, once warm: the first generation of a process is slow. `weights`: others than its own."""
    from demo_model import pipeline, text
    from physics.words import KNOWN

    host = HOSTS[name or DEMO]
    known = KNOWN if host.physics else text.SHAPES
    pipe = pipeline.build_pipeline(weights or host.weights, known=known, masked=host.masked)
    pipe.set_progress_bar_config(disable=True)
    pipeline.sample(pipe, host.filmed[0], num_frames=17, num_inference_steps=2, ar_step=1)
    return pipe


@cache
def fingerprint(names: frozenset[str]) -> str:
    """Ten letters of the hosts' weights: a reference of other weights is no reference."""
    found = hashlib.sha256()
    for folder in sorted({HOSTS[name or DEMO].weights for name in names}):
        for path in sorted(path for part in ("dit", "vae") for path in (folder / part).glob("*.safetensors")):
            found.update(path.read_bytes())
    return found.hexdigest()[:10]
