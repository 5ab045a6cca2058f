"""The DiT compiled, whole or block by block: compilations are counted, and no width costs more than one of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hosts import ALWAYS_PREDICT, generate, tiny_pipeline
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import scope_patch

SHORT = {"num_frames": 45, "causal_block_size": 4, "num_inference_steps": 6}  # widths 4, 8, 12
ONE_BY_ONE = {"num_frames": 21, "causal_block_size": 1, "ar_step": 1, "num_inference_steps": 6}  # widths 1 .. 6
HOW = {
    "torch.compile(module)": lambda pipe, **how: setattr(pipe, "transformer", torch.compile(pipe.transformer, **how)),
    "module.compile()": lambda pipe, **how: pipe.transformer.compile(**how),
    "compile_repeated_blocks()": lambda pipe, **how: pipe.transformer.compile_repeated_blocks(**how),
}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled(how, fullgraph=True, **more):
    """(a pipeline with a compiled DiT, the counter of its compilations)"""
    pipe, counter = tiny_pipeline(num_layers=1 if how == "torch.compile(module)" else 2), CompileCounter()
    HOW[how](pipe, backend=counter, fullgraph=fullgraph, **more)
    return pipe, counter


def accelerated(pipe, options, **settings):
    """One of several widths: latent frames that have not started are left out, under full attention too."""
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, selective=True, strict=True, **settings) as run:
        generate(pipe, **options)
    (generation,) = run.report["generations"]
    return generation


def widths_run(generation):
    """Distinct widths of the forwards that ran."""
    return {
        end - start
        for segment in generation["segments"]
        for (start, end), mode in zip(segment["intervals"], segment["modes"], strict=True)
        if mode == "R"
    }


SOME = [("torch.compile(module)", None), ("compile_repeated_blocks()", False)]
ALL = [(how, dynamic) for how in HOW for dynamic in (False, None)]


@pytest.mark.parametrize(
    ("how", "dynamic"), [pytest.param(*case, marks=() if case in SOME else pytest.mark.long) for case in ALL]
)
def test_at_most_one_compilation_a_width_and_no_graph_break(how, dynamic):
    pipe, counter = compiled(how, dynamic=dynamic)
    generation = accelerated(pipe, SHORT)
    assert widths_run(generation) == {4, 8, 12} and generation["forwards"]["skipped"] > 0
    assert counter.frame_count == 3 if dynamic is False else 2 <= counter.frame_count <= 3  # the second is dynamic
    assert not counters["graph_break"]
    before = counter.frame_count
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True):
        generate(pipe, **SHORT)
    assert counter.frame_count == before, "nothing of a generation is guarded on: the next one compiles nothing"


@pytest.mark.long
@pytest.mark.parametrize("how", HOW)
def test_never_compiles_what_the_unpatched_host_does(how):
    pipe, counter = compiled(how, dynamic=False)
    expected = generate(pipe, **SHORT)
    assert counter.frame_count == 1
    with scope_patch.patched(pipe, policy="never", strict=True):
        assert torch.equal(generate(pipe, **SHORT), expected)
    assert counter.frame_count == 1


def test_few_widths_are_compiled_few_times():
    pipe, counter = compiled("compile_repeated_blocks()", dynamic=False)
    generation = accelerated(pipe, ONE_BY_ONE, widths=2)
    assert len(widths_run(generation)) == 2 and counter.frame_count == 2
    assert not any("--widths" in remark for remark in generation["remarks"])


def test_more_static_widths_than_torch_compiles_are_limited_rather_than_a_failure_of_the_host():
    """6 widths against a recompile limit of 4: with `fullgraph` the host's forward would raise at the fifth."""
    pipe, counter = compiled("compile_repeated_blocks()", dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=4):
        generation = accelerated(pipe, ONE_BY_ONE)
    assert len(widths_run(generation)) == counter.frame_count == 2
    assert any("at most 2 widths (--widths" in remark for remark in generation["remarks"])


@pytest.mark.long
def test_without_the_limit_the_host_would_fail():
    pipe, counter = compiled("compile_repeated_blocks()", dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=4), pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        accelerated(pipe, ONE_BY_ONE, widths=6)
    assert counter.frame_count == 4


@pytest.mark.parametrize(
    ("how", "dynamic", "limited"),
    [(how, dynamic, dynamic is False) for how in HOW for dynamic in (False, None, True)],
)
def test_the_limit_is_for_static_shapes_alone(how, dynamic, limited):
    from scope_patch.patch.planning import few_enough
    from scope_patch.settings import Settings

    pipe, _ = compiled(how, dynamic=dynamic)
    assert few_enough(pipe.transformer, Settings()) == (6 if limited else None)
    assert few_enough(pipe.transformer, Settings(widths=11)) == 11, "who says a number gets it"


def test_the_limit_had_another_name_before_torch_2_7(monkeypatch):
    from types import SimpleNamespace

    from scope_patch.patch.planning import few_enough
    from scope_patch.settings import Settings

    pipe, _ = compiled("module.compile()", dynamic=False)
    old = SimpleNamespace(cache_size_limit=5, automatic_dynamic_shapes=True)
    monkeypatch.setitem(sys.modules, "torch._dynamo", SimpleNamespace(config=old))
    assert few_enough(pipe.transformer, Settings()) == 3


def test_a_dit_that_is_not_compiled_has_all_widths():
    generation = accelerated(tiny_pipeline(), ONE_BY_ONE)
    assert widths_run(generation) == set(range(1, 7))
    assert not any("--widths" in remark for remark in generation["remarks"])


@pytest.mark.long
@pytest.mark.parametrize("dynamic", [False, None])
def test_widths_that_change_at_the_residual_level(dynamic):
    """Blocks that are compiled one by one can be bypassed: the stand-in is compiled by nobody."""
    pipe, counter = compiled("compile_repeated_blocks()", dynamic=dynamic)
    generation = accelerated(pipe, SHORT, level="residual")
    assert generation["forwards"]["skipped"] > 0 and counter.frame_count <= 3


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, while inductor is imported
def test_inductor_makes_the_same_video_patched_or_not():
    pipe = tiny_pipeline()
    pipe.transformer.compile_repeated_blocks(fullgraph=True)
    expected = generate(pipe, **SHORT)
    with scope_patch.patched(pipe, policy="never", strict=True):
        assert torch.equal(generate(pipe, **SHORT), expected)
    generation = accelerated(pipe, SHORT)
    assert generation["forwards"]["skipped"] > 0


@pytest.mark.long
def test_official_blocks(upstream, run_python):
    """The official DiT breaks its graph by itself; what counts is that a width costs what it costs unpatched."""
    script = Path(__file__).parent / "official_compile.py"
    done = run_python(
        str(script), str(upstream("SkyReels-V2")), env={"PYTHONPATH": os.pathsep.join([str(ROOT)])}, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) == 2
    for case in found:
        assert case["widths"] == 3 and case["skipped"] > 0
        assert case["patched"] <= case["widths"] * case["unpatched"], case
        assert set(case["breaks"]) <= set(case["own breaks"]), "no graph break is ours"
