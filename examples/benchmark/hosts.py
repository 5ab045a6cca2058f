"""The hosts that are measured, by name, and what their weights are."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).resolve().parent.parent / "demo_model" / "weights"


def build(name: str) -> Any:
    """The pipeline of `demo`, block-causal as diffusers has it, or of `demo, full attention`, the official default."""
    from demo_model import pipeline

    pipe = pipeline.build_pipeline(WEIGHTS)
    pipe.set_progress_bar_config(disable=True)
    if name == "demo, full attention":  # diffusers switches the mask on wherever a block size is given
        pipe.transformer.register_to_config(num_frame_per_block=1)
        pipe.transformer._set_ar_attention = lambda size: None
    pipeline.sample(pipe, "a red disc", num_frames=17, num_inference_steps=2, ar_step=1)  # the first one is slow
    return pipe


@cache
def fingerprint() -> str:
    """Ten letters of the demo's weights: a reference of other weights is no reference."""
    found = hashlib.sha256()
    for path in sorted(WEIGHTS.rglob("*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()[:10]
