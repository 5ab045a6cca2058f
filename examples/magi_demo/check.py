"""Does the training's forward equal upstream's? Every forward of runs of the official loop, once more by model.py.

Upstream is imported from a clone and not changed; both have the same random weights.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import torch

from magi_cpu import host

from .model import CHUNK, CLEAN_T, NULL_TOKENS, VideoDiT, low_pass_

RUNS = {"text to video": dict(num_frames=144), "video to video": dict(num_frames=96, prefix_frames=72)}
BRANCHES = {(True, True): "text, previous chunks", (False, True): "previous chunks", (False, False): "neither"}
WANTED = 1e-5


@torch.no_grad()
def random_model() -> VideoDiT:
    """No weight at a value that would hide what it does."""
    generator = torch.Generator().manual_seed(0)
    model = VideoDiT().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    low_pass_(model)
    return model


def record(official, options: host.Options, given: list) -> tuple[torch.Tensor, list[dict]]:
    """(latents of a run, its forwards: arguments by name, and `out`)."""
    calls: list[dict] = []

    def forward(x, t, y, inference_params=None, **named):
        out = type(official).forward(official, x, t, y, inference_params=inference_params, **named)
        calls.append(dict(x=x.clone(), t=t.clone(), cached=inference_params is not None, out=out.clone(), **named))
        return out

    official.forward = forward
    try:
        return host.generate(official, options, given), calls
    finally:
        del official.forward


def repeat(model: VideoDiT, call: dict, clean: torch.Tensor, caption: torch.Tensor, length: int) -> torch.Tensor:
    """One recorded forward by the training's, with the finished chunks `clean` in front of its own."""
    x, t, own = call["x"], call["t"], call["t"].shape[1]
    history = call["slice_point"] if call["cached"] else 0
    x = torch.cat([clean[:, :, : history * CHUNK].expand(len(x), -1, -1, -1, -1), x], dim=2)
    t = torch.cat([torch.full((len(t), history), CLEAN_T), t], dim=1)
    sees = torch.eye(history + own, dtype=torch.bool).repeat(len(x), 1, 1)
    if call["cached"]:
        tokens = CHUNK * x.shape[3] * x.shape[4] // 4
        for row, (start, end) in enumerate((call["kv_range"] // tokens).tolist(), start=history):
            sees[:, row, start:end] = True
    reads = call["xattn_mask"].flatten(1).sum(dim=1).view(len(x), own) != NULL_TOKENS
    says = ~call["caption_dropout_mask"].expand(len(x))[:, None].expand(-1, own)
    # What the cache has of finished chunks comes from the forward without text, which alone writes to it.
    without = torch.zeros(len(x), history, dtype=torch.bool)
    reads, says = torch.cat([without, reads], dim=1), torch.cat([without, says], dim=1)
    text, lengths = caption.expand(len(x), -1, -1), torch.full((len(x),), length)
    return model(x, t, text, lengths, reads, says, sees)[:, :, history * CHUNK :]


@torch.no_grad()
def compare(clone: Path | None = None, log=print) -> float:
    """The largest relative difference of a chunk's velocity over all forwards; branch by branch in `log`."""
    host.prepare(clone)
    model, official, errors = random_model(), None, []
    for name, lengths in RUNS.items():
        options = host.Options(cfg=3, steps=8, sizes=asdict(model.sizes), **lengths)
        if official is None:
            official = host.build(options, clone)
            official.load_state_dict(model.state_dict(), strict=True)
        host.reconfigure(official, options, clone)
        given = caption, mask, prefix = host.features(options, official, seed=1)
        latents, calls = record(official, options, [given])
        clean = latents if prefix is None else torch.cat([prefix, latents], dim=2)
        worst: dict[str, float] = defaultdict(float)
        for call in calls:
            out = repeat(model, call, clean, caption[:, 0], int(mask.sum()))
            out, expected = (part.unflatten(2, (-1, CHUNK)).transpose(0, 2).flatten(1) for part in (out, call["out"]))
            error = float(((out - expected).norm(dim=1) / expected.norm(dim=1)).max())
            branch = BRANCHES[not call["caption_dropout_mask"].item(), call["cached"]]
            branch += ", a finished chunk goes along" * call["fwd_extra_1st_chunk"]
            worst[branch] = max(worst[branch], error)
        log(f"{name}: {len(calls)} forwards")
        for branch, error in sorted(worst.items()):
            log(f"  {branch}: {error:.1e}")
        errors += worst.values()
    return max(errors)
