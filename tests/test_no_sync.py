"""While the host's loop runs, our code never waits for the device: it looks at no number (see also laws.py)."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from diffusers import SkyReelsV2DiffusionForcingPipeline
from hosts import ALWAYS_PREDICT, fake_magi, fake_pipeline, generate, tiny_pipeline
from no_sync import no_sync

import scope_patch
from scope_patch.errors import ScopePatchError
from scope_patch.hosts.schedules import walk, window_table
from scope_patch.hosts.wan import asynchronous_table
from scope_patch.method.decision import Size
from scope_patch.method.fold import Fold, expected
from scope_patch.method.memory import Memory
from scope_patch.method.predictors import BUILT_IN, Auto
from scope_patch.method.resolved import HostDefaults, method_of
from scope_patch.method.schedule import Schedule
from scope_patch.patch.loops import Loop
from scope_patch.patch.session import Session
from scope_patch.patch.velocity import ForwardCall
from scope_patch.registry import magi_1, skyreels_v2
from scope_patch.report.record import GenerationRecord as Record
from scope_patch.settings import Settings

tiny = fake_magi()


def magi(settings=None, **options):
    model = tiny.make_model(**options)
    return model, lambda: tiny.generate(model, prefix_frames=32), settings or {}


def official(settings=None, **options):
    pipe = fake_pipeline()
    return pipe, lambda: pipe("a disc", **options), settings or {}


def diffusers(settings=None, **options):
    pipe = tiny_pipeline()
    return pipe, lambda: generate(pipe, **options), settings or {}


NO_THRESHOLDS = {"cache_threshold": None, "predict_threshold": None}
SOME = {"cache_threshold": 0.05, "predict_threshold": 0.4}
HOSTS = {
    "official": lambda: official(),
    "official, two segments": lambda: official(num_frames=65, overlap=5),
    "official, cached too": lambda: official(SOME),
    "official, residuals": lambda: official({"level": "residual"}),
    "official, teacache": lambda: official({"policy": "teacache:ckpt_dir=none", **NO_THRESHOLDS}),
    "official, taylorseer": lambda: official({"policy": "taylorseer:max_order=2", **NO_THRESHOLDS}),
    "diffusers, flowcache": lambda: diffusers({"policy": "flowcache:warmup_steps=2", **NO_THRESHOLDS}),
    "diffusers, delta-dit": lambda: diffusers({"policy": "delta-dit:blocks=1", **NO_THRESHOLDS}),
    "magi, taylorseer": lambda: magi({"policy": "taylorseer:interval=3", **NO_THRESHOLDS}),
    "diffusers, residuals": lambda: diffusers({"level": "residual"}),
    "official, target": lambda: official({"target_speedup": 2.0, "cache_threshold": None, "predict_threshold": None}),
    "diffusers": lambda: diffusers(),
    "diffusers, long": lambda: diffusers(num_frames=177, overlap_history=17),
    "diffusers, expected change": lambda: diffusers({"signal": "expected"}),
    "magi": lambda: magi(),
    "magi, guidance": lambda: magi(cfg=3),
    "magi, some chunks": lambda: magi({"cache_threshold": 0, "predict_threshold": 0.1, "max_skip": 9}, num_steps=64),
    "magi, whole window": lambda: magi({"per_chunk": False}, num_steps=64),
    "magi, bf16": lambda: magi(dtype=torch.bfloat16),
}


CASES = [(host, "auto") for host in HOSTS if host not in ("official", "diffusers", "magi")]  # those: laws.py
CASES += [(host, name) for host in ("official", "diffusers", "magi") for name in ("taylor2", "hold")]


@pytest.mark.parametrize(("host", "name"), CASES)
def test_no_look_at_a_tensor_while_the_loop_runs(host, name):
    target, run_it, settings = HOSTS[host]()
    settings = {**ALWAYS_PREDICT, **settings, "predictor": name}
    with scope_patch.patched(target, **settings, strict=True) as run, no_sync() as operations:
        run_it()
    (generation,) = run.report["generations"]
    assert generation["finished"] and generation["forwards"]["skipped"] > 3 and operations.seen > 100


LOOKS = """
w[0, 0].item()
float(w.sum())
bool((w > 0).any())
w.tolist()
w.numpy()
w.cpu()
w.to("cpu")
w[w > 0]
w[[0]]
w.nonzero()
torch.equal(w, w)
f"{w[0, 0]}"
"""


@pytest.mark.parametrize("look", LOOKS.strip().splitlines())
def test_the_mode_can_fail(look, monkeypatch):
    source = f"def weights(self, target, points):\n    w = before(self, target, points)\n    {look}\n    return w\n"
    scope = {"before": Auto.weights, "torch": torch}
    exec(compile(source, f"{ROOT}/scope_patch/method/predictors.py", "exec"), scope)
    monkeypatch.setattr(Auto, "weights", scope["weights"])
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True):
        pipe("a disc", num_frames=10)
        with pytest.raises(ScopePatchError, match="LookedError"), no_sync():
            pipe("a disc", num_frames=10)


def segment():
    """Latent frames, more than the window has."""
    template = torch.linspace(990, 80, 12).long()
    made = SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix(None, 25, template, 20, 3, 0, 5)
    return Schedule.of(asynchronous_table(made), selective=True), skyreels_v2.HOST, (0.1, 0.6)


def window():
    """Chunks, each decided upon by itself, so that some forwards are of some of them only."""
    schedule = Schedule.of(window_table(walk(5, 4, 32), 6, 32))
    return schedule, replace(magi_1.HOST, narrow=narrow, work=None), (0.02, 0.2)


def narrow(arguments, first, last):
    return {"x": arguments["x"][:, :, 6 * first : 6 * last]}


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "last"])  # it has nothing to predict from
@pytest.mark.parametrize(
    ("job", "dtype"), [(segment, torch.float32), (segment, torch.bfloat16), (window, torch.float32)]
)
def test_velocities_without_numbers(job, dtype, name):
    """Tensors on the device `meta` have none: whoever reads one fails, and so does who mixes devices."""
    schedule, host, (cached, predicted) = job()
    settings = Settings(cache_threshold=cached, predict_threshold=predicted, predictor=name)
    method = method_of(settings, HostDefaults({}, size=Size(chunked=host.moving)))
    verdicts = Fold(method, schedule, lambda i: method.policy, expected(schedule)).verdicts()
    record, branches, partial = Record(), [object(), object()], 0
    planning = SimpleNamespace(host=host, model=None, record=record, method=method, span=None)
    planning.schedule, planning.verdicts = lambda _: schedule, lambda *_: (verdicts, None)
    planning.replays = lambda *_: None
    session = Session(planning, Loop(), None, 0, Memory())
    with no_sync() as operations:
        for i in range(len(schedule)):
            start, end = session.enter(i)
            slots = end - start + schedule.clean_prefix(i)
            latents = torch.empty(2, 4, slots * schedule.frames, 4, 4, device="meta", dtype=dtype)
            for branch in branches:
                timestep = torch.empty(2, slots, device="meta")
                arguments = {"x": latents, host.dit.condition: branch}
                output, pending = session.serve(ForwardCall(arguments, latents, timestep))
                if pending is not None:
                    ran = latents if pending.arguments is None else pending.arguments["x"]
                    session.observe(pending, torch.empty_like(ran))
                made = output if pending is None else pending.whole
                partial += pending is not None and made is not None
                if made is not None:
                    assert (made.device.type, made.dtype, made.shape) == ("meta", dtype, latents.shape)
    modes = record.segments[0].modes
    assert {"C", "P", "R"} <= set(modes) and record.guards == {} and record.forwards_skipped > 10
    assert operations.seen > 500 and bool(partial) == host.moving
    with pytest.raises(NotImplementedError, match="no data"):
        session.close()  # the counts are there too, and only read here
