"""`plan` against runs of diffusers' pipeline: the same decisions, from the weights that `save_pretrained` wrote."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import planned
import pytest
import torch
from hosts import embeddings, generate, tiny_pipeline, tiny_transformer
from hypothesis import given
from hypothesis import strategies as st

import scope_patch
from scope_patch.hosts import schedules
from scope_patch.outlook.signal import Checkpoint, modulation
from scope_patch.patch.attach import bindings
from scope_patch.patch.signal import slice_signal
from scope_patch.patch.velocity import ForwardCall

TEXT = {"text_tokens": 4}  # as tests/hosts.py has it
HOST = "skyreels-v2-diffusers"
FRAMES = st.fixed_dictionaries(
    {
        "base_num_frames": st.sampled_from([17, 25, 34]),
        "num_frames": st.integers(13, 52),
        "overlap_history": st.sampled_from([None, 5, 9, 10, 13]),
        "causal_block_size": st.sampled_from([1, 1, 2, 3]),
        "ar_step": st.integers(0, 4),
        "num_inference_steps": st.integers(8, 16),
        "guidance_scale": st.sampled_from([1.0, 4.0]),
        "fps": st.sampled_from([16, 24]),
    }
)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """(with fps embedding or not, shift) -> (pipeline, folder of its weights)"""

    @functools.cache
    def saved(fps):
        model = tiny_transformer(inject_sample_info=fps)
        folder = tmp_path_factory.mktemp("pipeline")
        model.save_pretrained(folder / "transformer")
        return model, folder

    def make(fps, shift):
        model, folder = saved(fps)
        pipe = tiny_pipeline(transformer=model)
        pipe.scheduler.register_to_config(flow_shift=shift)
        return pipe, folder

    return make


@planned.few
@given(
    options=FRAMES,
    how=planned.how(),
    more=planned.more(selective=st.booleans(), widths=st.one_of(st.none(), st.integers(1, 4))),
    fps=st.booleans(),
    shift=st.sampled_from([1.0, 3.0, 8.0]),
)
def test_plan_equals_run(host, options, how, more, fps, shift):
    pipe, folder = host(fps, shift)
    decided = {**how, **more}
    named = {"steps" if name == "num_inference_steps" else name: value for name, value in options.items()}
    size = {"height": 32, "width": 32, "shift": shift}
    told, error = planned.plan(HOST, **named, **size, **decided, **TEXT, weights=folder, dtype="float32")
    with scope_patch.patched(pipe, strict=True, **decided) as run:
        try:
            generate(pipe, **options)
        except (ValueError, RuntimeError):
            assert error
            return
    assert not error
    planned.check(told, run.report["generations"][0])


@pytest.mark.parametrize("shift", [1.0, 1.7, 3.0, 5.0, 8.0])
def test_timesteps_are_the_schedulers(shift):
    scheduler = tiny_pipeline().scheduler
    scheduler.register_to_config(flow_shift=shift)
    for steps in range(1, 101):
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == schedules.diffusers_timesteps(steps, shift)
        levels = 1.0 - np.linspace(1, 1 / 1000, steps + 1)
        levels = np.flip(shift * levels / (1 + (shift - 1) * levels))[:-1]
        older = (levels * 1000).astype(np.int64).tolist()
        assert older == schedules.diffusers_timesteps(steps, shift, "0.36.0"), "as diffusers had it up to there"


def test_the_comparison_can_fail(host):
    """One step less in the plan, or another shift."""
    pipe, folder = host(True, 3.0)
    with scope_patch.patched(pipe, strict=True, target_speedup=2, placement="threshold") as run:
        generate(pipe, num_frames=57, guidance_scale=4.0)
    options = {"num_frames": 57, "ar_step": 3, "causal_block_size": 5, "height": 32, "width": 32, "weights": folder}
    options |= TEXT
    for more, fits in (
        ({}, True),
        ({"shift": 8.0}, False),
        ({"steps": 11}, False),
        ({"fps": 16}, False),
        ({"text_tokens": 512}, False),
    ):
        given = {
            **options,
            "steps": 12,
            "shift": 3.0,
            "dtype": "float32",
            "target_speedup": 2,
            "placement": "threshold",
            **more,
        }
        told, _ = planned.plan(HOST, **given)
        with contextlib.nullcontext() if fits else pytest.raises(AssertionError):
            planned.check(told, run.report["generations"][0])


@pytest.mark.parametrize("fps", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_those_of_the_forward(tmp_path, fps, dtype):
    """bf16 as `from_pretrained` loads it: the time embedder stays in float32."""
    tiny_transformer(inject_sample_info=fps).save_pretrained(tmp_path)
    model = type(tiny_transformer()).from_pretrained(tmp_path, torch_dtype=dtype)
    times = torch.arange(999, -1, -37)
    for rate, embedded in ((16, 0), (24, 1)):
        arguments = {
            "hidden_states": torch.randn(1, 4, 10, 8, 8, dtype=dtype),
            "timestep": times[None, :10],
            "encoder_hidden_states": embeddings()["prompt_embeds"].to(dtype),
            "enable_diffusion_forcing": True,
            "fps": [embedded],
            "return_dict": False,
        }
        call = ForwardCall(arguments, arguments["hidden_states"], arguments["timestep"])
        theirs = slice_signal(bindings()[HOST].host.dit, model, call, 10)(times)
        ours, dim = modulation(Checkpoint.find(str(tmp_path)), HOST, rate, dtype)
        assert dim == 24 and ours(times).dtype == theirs.dtype == dtype
        tolerance = 1e-6 if dtype is torch.float32 else 1e-2
        assert (ours(times) - theirs).abs().max() <= tolerance * theirs.abs().max()
