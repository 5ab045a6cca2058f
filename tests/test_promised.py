"""What was asked for is compared with what happens: a loop that is not seen is told of at once; strict ends there."""

from __future__ import annotations

import gc
import logging
from xml.etree import ElementTree

import diffusers
import pytest
import torch
from hosting import at_forward
from hosts import ALWAYS_PREDICT, CountForwards, fake_pipeline, generate, tiny_pipeline

import scope_patch
from scope_patch.errors import NotApplied
from scope_patch.patch.attach import bindings
from scope_patch.patch.session import Session
from scope_patch.report.page import page
from scope_patch.report.read import parse
from scope_patch.report.record import GenerationRecord, Run, Segment, combined
from scope_patch.report.summary import lines, text
from scope_patch.settings import Settings

SMALL = {"num_frames": 33, "num_inference_steps": 8, "ar_step": 2, "causal_block_size": 3}
REBUILT = {
    "a tuple each": lambda intervals: [tuple(pair) for pair in intervals],
    "a slice": lambda intervals: intervals[:],
    "a list of it": list,
    "one after the other": lambda intervals: [(start, end) for start, end in intervals],
    "by index": lambda intervals: [intervals[k] for k in range(len(intervals))],
    "wider": lambda intervals: [(0, end) for _, end in intervals],
}


def subclass(rebuild, base=diffusers.SkyReelsV2DiffusionForcingPipeline):
    class Own(base):
        def generate_timestep_matrix(self, *args, **kwargs):
            *tables, intervals = super().generate_timestep_matrix(*args, **kwargs)
            return *tables, rebuild(intervals)

    return Own


def of_class(cls):
    pipe = tiny_pipeline()
    made = cls(**pipe.components)
    made.set_progress_bar_config(disable=True)
    return made


def counted(pipe, **options):
    """(latents, forwards that really ran), or (what was raised, the same)."""
    count = CountForwards(pipe.transformer)
    try:
        return generate(pipe, **SMALL, **options), count.forwards
    except NotApplied as reason:
        return reason, count.forwards
    finally:
        count.remove()


@pytest.fixture(scope="module")
def usual():
    """What diffusers' own class makes without us; with us; the segments of that."""
    pipe = tiny_pipeline()
    plain = generate(pipe, **SMALL)
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True) as run:
        return plain, generate(pipe, **SMALL), run.report["generations"][0]["segments"]


@pytest.mark.parametrize("deep", [False, True], ids=["a subclass", "a subclass of one"])
@pytest.mark.parametrize("how", REBUILT)
def test_a_subclass_that_rebuilds_the_intervals_is_accelerated_as_ever(how, deep, usual):
    plain, expected, segments = usual
    own = subclass(REBUILT[how])
    own = subclass(REBUILT[how], own) if deep else own
    before = dict(vars(own))
    pipe = of_class(own)
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True) as run:
        made, forwards = counted(pipe)
        again, _ = counted(pipe)
    assert torch.equal(made, expected) and torch.equal(again, expected)
    first, second = run.report["generations"]
    assert first["segments"] == second["segments"] == segments
    assert first["forwards"]["run"] == forwards < first["forwards"]["baseline"]
    after = dict(vars(own))
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)
    with scope_patch.patched(pipe, policy="never", strict=True):
        assert torch.equal(generate(pipe, **SMALL), plain)


def hidden(pipe):
    """The intervals reach the loop by a way that nobody can see: a method of this one object."""
    own = type(pipe).generate_timestep_matrix

    def rebuilt(*args, **kwargs):
        *tables, intervals = own(pipe, *args, **kwargs)
        return *tables, [tuple(pair) for pair in intervals]

    pipe.generate_timestep_matrix = rebuilt
    return pipe


def test_a_loop_that_is_not_seen_is_told_of_at_its_first_forward(caplog):
    expected, alone = counted(tiny_pipeline())
    pipe = hidden(tiny_pipeline())
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True) as run:
        reason, forwards = counted(pipe)
    assert forwards == 0 and "bound but idle: the DiT was called 1 times" in str(reason)
    assert run.report["status"] == "not-applied" and "idle" in run.report["reasons"][0]
    caplog.clear()
    told = []
    hook = at_forward(pipe.transformer, 1, lambda: told.append(caplog.text))
    with scope_patch.patched(pipe, **ALWAYS_PREDICT) as run:
        made, forwards = counted(pipe)
    hook.remove()
    assert "bound but idle" in told[0] and caplog.text.count("called 1 times") == 1
    (generation,) = run.report["generations"]
    assert torch.equal(made, expected) and generation["forwards"] == {"baseline": alone, "run": alone, "skipped": 0}
    assert generation["status"] == "not-applied" and f"called {alone} times" in generation["reasons"][0]


def test_a_forward_beside_the_loop_is_counted_and_strict_raises_there():
    """A host that calls the DiT once more before its loop: nothing says what for (a registry file can, by `extra`)."""

    class Warm(type(fake_pipeline())):
        def generate_timestep_matrix(self, *args, **kwargs):
            context = self.encode("a disc", torch.float32)
            self.transformer(torch.zeros(1, 4, 5, 4, 4), t=torch.zeros(1, 5), context=context, fps=[1])
            return super().generate_timestep_matrix(*args, **kwargs)

    pipe = Warm()
    expected, before = pipe("a disc", seed=1), pipe.transformer.calls
    with scope_patch.patched(pipe, policy="never") as run:
        assert torch.equal(pipe("a disc", seed=1), expected)
    (generation,) = run.report["generations"]
    assert generation["status"] == "applied" and generation["forwards"]["run"] == pipe.transformer.calls - before
    assert any("belonged to no iteration" in remark for remark in generation["remarks"])
    with scope_patch.patched(pipe, policy="never", strict=True), pytest.raises(NotApplied, match="idle"):
        pipe("a disc")


def test_the_users_own_calls_of_the_dit_outside_of_any_pipeline_are_left_alone(caplog):
    pipe = fake_pipeline()
    given = torch.randn(1, 4, 25, 4, 4), torch.full((1, 25), 500), pipe.encode("a disc", torch.float32)
    expected = pipe.transformer(*given, fps=[1])[0]
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True) as run:
        assert torch.equal(pipe.transformer(*given, fps=[1])[0], expected)
        pipe("a disc", seed=1)
        assert torch.equal(pipe.transformer(*given, fps=[1])[0], expected)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    (generation,) = run.report["generations"]
    assert generation["status"] == "applied" and not any("no iteration" in each for each in generation["remarks"])


@pytest.mark.parametrize("gone", [False, True], ids=["beside it", "in its place"])
def test_a_clone_of_a_pipeline_that_was_named_is_meant_as_well(gone):
    pipe = tiny_pipeline()
    handle = scope_patch.apply(pipe, **ALWAYS_PREDICT, strict=True)
    expected = generate(pipe, **SMALL)
    clone = diffusers.SkyReelsV2DiffusionForcingPipeline.from_pipe(pipe)
    clone.set_progress_bar_config(disable=True)
    if gone:
        del pipe
        gc.collect()
    assert torch.equal(generate(clone, **SMALL), expected)
    other = tiny_pipeline()  # of the same weights, but other networks
    alone = generate(other, **SMALL)
    handle.remove()
    assert [each["status"] for each in handle.report["generations"]] == ["applied"] * 2
    assert torch.equal(alone, generate(other, **SMALL)) and not torch.equal(alone, expected)


def test_who_named_the_clone_itself_is_asked_first():
    pipe = tiny_pipeline()
    clone = diffusers.SkyReelsV2DiffusionForcingPipeline.from_pipe(pipe)
    clone.set_progress_bar_config(disable=True)
    with scope_patch.patched(clone, policy="never") as mine, scope_patch.patched(pipe, **ALWAYS_PREDICT) as other:
        generate(clone, **SMALL)
    assert len(mine.generations) == 1 and not other.generations


# Switched off in mid-run.


def refused_at(monkeypatch, iteration, call=1, error=None):
    """In the call of that number at that iteration of the first segment."""
    serve, seen = Session.serve, []

    def failing(session, given):
        if session.iteration == iteration:
            seen.append(1)
            if len(seen) == call:
                raise error or NotApplied("of a test")
        return serve(session, given)

    monkeypatch.setattr(Session, "serve", failing)


RECOMPUTED = {"cache_threshold": 0.0, "predict_threshold": 0.0}


@pytest.mark.parametrize("call", [1, 2])
def test_what_was_narrowed_before_it_was_refused_was_patched_in_part(call, monkeypatch):
    """Under full attention the others saw a shorter clip: that is another video than the host's."""
    expected = fake_pipeline()("a disc", seed=1)
    pipe = fake_pipeline()
    refused_at(monkeypatch, 4, call)
    with scope_patch.patched(pipe, **RECOMPUTED, selective=True) as run:
        made = pipe("a disc", seed=1)
    report = run.report
    (generation,) = report["generations"]
    assert not torch.equal(made, expected) and generation["forwards"]["skipped"] == 0
    assert report["status"] == generation["status"] == "partly"
    assert generation["reasons"] == ["of a test (unpatched from iteration 4 of segment 1 on)"]
    assert generation["forwards"]["run"] == pipe.transformer.calls
    told = text(parse(report))
    assert "1 generation, patched in part" in told and "1 ran unpatched in part: of a test" in told
    after = len(generation["segments"][0]["modes"])
    assert f"; unpatched after {after}" in told and "RRRuuu" in told.replace("\n", "")
    shown = "".join(ElementTree.fromstring(page(parse(report))).itertext())
    assert "patched in part" in shown and f"unpatched after {after} iterations" in shown


def test_what_was_the_hosts_own_until_it_was_refused_was_not_patched(monkeypatch):
    expected, pipe = fake_pipeline()("a disc", seed=1), fake_pipeline()
    refused_at(monkeypatch, 4)
    with scope_patch.patched(pipe, **RECOMPUTED, selective=False) as run:
        assert torch.equal(pipe("a disc", seed=1), expected)
    (generation,) = run.report["generations"]
    assert run.report["status"] == generation["status"] == "not-applied" and generation["reasons"] == ["of a test"]
    assert generation["forwards"]["run"] == pipe.transformer.calls


def test_strict_takes_a_generation_that_ran_in_part_for_a_failure(monkeypatch):
    """Also where what ended it was raised elsewhere: a request that is not strict lets a failure of ours pass."""
    outer, inner = fake_pipeline(), fake_pipeline(seed=1)
    with (
        scope_patch.patched(outer, **ALWAYS_PREDICT, strict=True) as run,
        scope_patch.patched(inner, **ALWAYS_PREDICT) as lenient,
    ):

        def within():
            refused_at(monkeypatch, 0, error=ZeroDivisionError("on purpose"))
            inner("a disc", seed=1)
            monkeypatch.undo()

        hook = at_forward(outer.transformer, 8, within)
        with pytest.raises(NotApplied, match=r"ZeroDivisionError.*unpatched from iteration"):
            outer("a disc", seed=1)
        hook.remove()
    assert run.report["status"] == "partly" and lenient.report["status"] != "applied"
    assert not bindings()["skyreels-v2"]._current.generations


def test_removal_is_no_failure():
    pipe = fake_pipeline()
    handle = scope_patch.apply(pipe, **ALWAYS_PREDICT, strict=True)
    hook = at_forward(pipe.transformer, 8, handle.remove)
    assert pipe("a disc", seed=1).isfinite().all()
    hook.remove()
    assert handle.report["status"] == "partly"


def generation_of(status):
    made = GenerationRecord(finished=True, segments=[Segment(1)], forwards_run=2, forwards_skipped=2)
    if status != "applied":
        made.forwards_skipped *= status == "partly"
        made.switched_off("a reason", False, 0)
    assert made.status == status
    return made


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], "not-applied"),
        (["applied"], "applied"),
        (["applied"] * 2, "applied"),
        (["not-applied"] * 2, "not-applied"),
        (["applied", "not-applied"], "partly"),
        (["partly", "partly"], "partly"),
        (["applied", "partly"], "partly"),
    ],
)
@pytest.mark.parametrize("many", [1, 40])
def test_the_status_of_a_run_is_one_of_its_generations(statuses, expected, many):
    """Also of those that are in the sums alone; one that never came to a loop says nothing."""
    assert combined(statuses) == expected
    run = Run(Settings())
    for status in statuses:
        for _ in range(many):
            run.begin(generation_of(status))
    run.begin(GenerationRecord(finished=False, error="the host's"))
    assert run.status == run.report["status"] == expected
    assert parse(run.report).run.status == expected
    assert ("in part" in "\n".join(lines(run))) == (expected == "partly")
