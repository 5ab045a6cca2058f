"""`plan` against runs of the official SkyReels-V2 pipeline, for official_skyreels.py: one process, one import."""

from __future__ import annotations

import functools
import json
import tempfile
import traceback
from pathlib import Path

import planned
import torch
from hypothesis import given
from hypothesis import strategies as st

import scope_patch

FRAMES = st.fixed_dictionaries(
    {
        "base_num_frames": st.sampled_from([17, 25, 34]),
        "num_frames": st.integers(13, 52),
        "overlap_history": st.sampled_from([5, 9, 10, 13]),
        "causal_block_size": st.sampled_from([1, 1, 2, 3]),
        "ar_step": st.integers(0, 4),
        "num_inference_steps": st.integers(8, 16),
        "shift": st.sampled_from([1.0, 3.0, 8.0]),
        "guidance_scale": st.sampled_from([1.0, 4.0]),
        "fps": st.sampled_from([16, 24]),
    }
)
SEEN = {"plans": 0, "refused": 0, "segments": 0, "skipped": 0}


def save(model, folder, **more):
    """A model's weights as upstream publishes them. `text_dim` is not in its config.json: it has one value there."""
    from safetensors.torch import save_file

    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**dict(model.config), "text_dim": model.text_dim, **more}))
    return str(folder)


def hosts(upstream, build, folder):
    """{with fps embedding or not: (pipeline, folder of its weights)}"""
    made = {}
    for fps in (True, False):
        pipe = build(upstream, fps=fps)
        path = Path(folder) / str(fps)
        path.mkdir()
        made[fps] = pipe, save(pipe.transformer, path)
    return made


def compare(official, upstream):
    """The numbers of what was tried, and the first falsifying example as text ("" where there is none)."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = hosts(upstream, official.build, folder)
            _property(functools.partial(_one, official, made))
    except BaseException:  # told to the test that waits for it, whatever it is
        return {"failure": traceback.format_exc()[-3000:], **SEEN}
    return {"failure": "", **SEEN}


def _property(one):
    @planned.few
    @given(options=FRAMES, how=planned.how(), more=planned.more(selective=st.booleans()), fps=st.booleans())
    def plan_equals_run(options, how, more, fps):
        one(options, {**how, **more}, fps)

    plan_equals_run()


def _one(official, made, options, decided, fps):
    pipe, weights = made[fps]
    size = {"height": official.SIZE, "width": official.SIZE}
    named = {"steps" if name == "num_inference_steps" else name: value for name, value in options.items()}
    told, error = planned.plan("skyreels-v2", **named, **size, **decided, weights=weights, dtype="float32")
    with scope_patch.patched(pipe, strict=True, **decided) as run:
        try:
            official.generate(pipe, **options)
        except (AssertionError, RuntimeError):
            assert error
            SEEN["refused"] += 1
            return
    assert not error, error
    generation = run.report["generations"][0]
    planned.check(told, generation)
    SEEN["plans"] += 1
    SEEN["segments"] += len(generation["segments"])
    SEEN["skipped"] += generation["forwards"]["skipped"]


def features(official, upstream):
    """How far the feature of the saved weights is from the one in the forward: {case: largest relative difference}."""
    from scope_patch.outlook.signal import Checkpoint, modulation
    from scope_patch.patch.attach import bindings
    from scope_patch.patch.signal import slice_signal
    from scope_patch.patch.velocity import ForwardCall

    found = {}
    for fps, dtype in ((True, torch.float32), (False, torch.float32), (True, torch.bfloat16)):
        model = official.build(upstream, fps=fps).transformer
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Checkpoint.find(save(model, Path(folder)))
            ours = {rate: modulation(checkpoint, "skyreels-v2", rate, dtype)[0] for rate in (16, 24)}
        model = model.to(dtype)
        times = torch.arange(999, -1, -37)
        for rate, embedded in ((16, 0), (24, 1)):
            arguments = {
                "x": torch.randn(1, 16, 10, 4, 4, dtype=dtype), "t": times[None, :10],
                "context": torch.randn(1, 8, 32, dtype=dtype), "fps": [embedded],
            }  # fmt: skip
            call = ForwardCall(arguments, arguments["x"], arguments["t"])
            with official.autocast_to_float32():
                theirs = slice_signal(bindings()["skyreels-v2"].host.dit, model, call, 10)(times)
            mine = ours[rate](times)
            assert mine.dtype == theirs.dtype == torch.float32
            found[f"fps {fps}, {rate}, {dtype}"] = float((mine - theirs).abs().max() / theirs.abs().max())
    return found


def other_timesteps(upstream):
    """(steps, shift) at which the plan's timesteps are not the scheduler's."""
    from scope_patch.hosts.schedules import official_timesteps

    scheduler, bad = upstream[2](), []
    for shift in (1.0, 1.7, 3.0, 5.0, 8.0):
        for steps in range(1, 101):
            scheduler.set_timesteps(steps, shift=shift)
            if scheduler.timesteps.tolist() != official_timesteps(steps, shift):
                bad.append((steps, shift))
    return bad
