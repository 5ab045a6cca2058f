"""MAGI-1: the fake of the official repository."""

from __future__ import annotations

from hosts import fake_magi

from . import Subject, without


def make(**options):
    return fake_magi().make_model(**without(("prefix_frames",), options))


def generate(model, seed, prefix_frames=0, **_):
    return fake_magi().generate(model, seed=seed, prefix_frames=prefix_frames)


def dtype():
    import torch

    return torch.bfloat16


def owners():
    fake_magi()
    from inference.pipeline.video_generate import SampleTransport

    return (SampleTransport,)


SUBJECTS = [
    Subject(
        name="fake magi",
        host="magi-1",
        entry="SampleTransport",
        make=make,
        generate=generate,
        model=lambda model: model,
        cases={
            "text": {},
            "guidance": {"cfg": 3},
            "image": {"prefix_frames": 1},
            "video": {"prefix_frames": 32},
            "video, guidance": {"cfg": 3, "prefix_frames": 32},
            "12 steps": {"num_steps": 12},
            "64 steps": {"num_steps": 64},
            "bf16": {"dtype": dtype()},
            "window 1": {"window": 1},
            "window 2": {"window": 2},
            "window 3, guidance": {"window": 3, "num_steps": 12, "cfg": 3, "noise2clean_kvrange": []},
            "one chunk": {"num_frames": 24},
            "shortcut": {"num_steps": 12, "shortcut_mode": "16,16,8"},
            "flags": {"enable_cuda_graph": True, "kv_offload": False},
        },
        target={"num_steps": 64},
        tokens=False,
        looks=2,
        texts=False,
        owners=owners,
    )
]
