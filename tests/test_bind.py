"""Attaching and detaching: identity, idempotence, foreign patches, and what is no host of ours."""

from __future__ import annotations

import sys

import pytest
import torch
import wrapt
from hosts import ALWAYS_PREDICT, fake_pipeline
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import scope_patch
from scope_patch.errors import NotApplied, UsageError
from scope_patch.patch.attach import bindings


def owners():
    """The fake's classes that own a seam, with the attributes we may replace."""
    fake_pipeline()
    pipeline = sys.modules["skyreels_v2_infer.pipelines.diffusion_forcing_pipeline"].DiffusionForcingPipeline
    return [pipeline, sys.modules["skyreels_v2_infer.modules.transformer"].WanModel]


def snapshot():
    return [dict(vars(owner)) for owner in owners()]


def same(one, other):
    return all(a.keys() == b.keys() and all(a[name] is b[name] for name in a) for a, b in zip(one, other, strict=True))


def generate(pipe):
    return pipe("a disc", num_inference_steps=6, ar_step=2)


def test_identity_is_restored_and_removal_is_idempotent():
    before = snapshot()
    handle = scope_patch.apply(fake_pipeline())
    assert not same(before, snapshot())
    handle.remove()
    assert same(before, snapshot())
    handle.remove()
    assert same(before, snapshot())


def test_two_handles_wrap_once_and_the_last_one_out_restores():
    before = snapshot()
    pipe = fake_pipeline()
    one = scope_patch.apply(pipe)
    wrapped = snapshot()
    two = scope_patch.apply(pipe, policy="never")
    assert same(wrapped, snapshot())
    generate(pipe)
    assert not one.report["generations"] and two.report["generations"], "the newest request wins"
    one.remove()
    assert same(wrapped, snapshot())
    two.remove()
    assert same(before, snapshot())


def test_a_foreign_patch_on_top_stays_and_ours_goes_quiet():
    before = snapshot()
    pipeline, _ = owners()
    pipe = fake_pipeline()
    expected = generate(pipe)
    handle = scope_patch.apply(pipe, **ALWAYS_PREDICT)
    calls = []

    def foreign(wrapped, instance, args, kwargs):
        calls.append(1)
        return wrapped(*args, **kwargs)

    raw = vars(pipeline)["__call__"]
    pipeline.__call__ = wrapt.FunctionWrapper(raw, foreign)
    top = vars(pipeline)["__call__"]
    handle.remove()
    assert vars(pipeline)["__call__"] is top, "what somebody put on top of us is not ours to remove"
    assert torch.equal(generate(pipe), expected) and calls == [1]
    with scope_patch.patched(pipe, **ALWAYS_PREDICT) as run:
        generate(pipe)
    assert len(run.generations) == 1, "the wrapper that stayed is used again, not doubled"
    pipeline.__call__ = raw
    with scope_patch.patched(pipe, **ALWAYS_PREDICT) as run:
        generate(pipe)
    assert len(run.generations) == 1 and same(before, snapshot())


def test_what_is_no_host_is_refused_by_name():
    with pytest.raises(NotApplied, match=r"torch.nn.modules.linear.Linear is no pipeline or DiT"):
        scope_patch.apply(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"cache_threshold": 0.5, "predict_threshold": 0.1}, "above predict_threshold"),
        ({"max_skip": -1}, "max_skip"),
        ({"predict_decay": 1.5}, "predict_decay"),
        ({"predictor": "taylor3"}, "taylor2"),
        ({"policy": "allways"}, "no policy"),
        ({"treshold": 1}, "threshold"),
    ],
)
def test_settings_are_checked_before_anything_is_patched(wrong, complaint):
    before = snapshot()
    with pytest.raises(UsageError, match=complaint):
        scope_patch.apply(fake_pipeline(), **wrong)
    assert same(before, snapshot())


def test_a_seam_that_changed_is_refused_with_the_check(monkeypatch):
    pipeline, _ = owners()
    before = snapshot()

    def generate_timestep_matrix(self, frames, template, base, ar_step, num_pre_ready, casual_block_size):
        raise AssertionError("not called")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "generate_timestep_matrix", generate_timestep_matrix)
        with pytest.raises(NotApplied, match=r"parameters of .*generate_timestep_matrix: no parameter num_frames"):
            scope_patch.apply(fake_pipeline())
    assert same(before, snapshot())


def test_kill_switch(monkeypatch):
    monkeypatch.setenv("SCOPE_PATCH", "0")
    before = snapshot()
    handle = scope_patch.apply(fake_pipeline())
    assert same(before, snapshot()) and "SCOPE_PATCH=0" in handle.report["reasons"][0]


def test_a_foreign_patch_that_came_first_and_goes_first():
    """It puts back what it found, and throws us out with it: the next `apply` must notice."""
    before = snapshot()
    pipeline, _ = owners()
    pipe = fake_pipeline()
    raw = vars(pipeline)["__call__"]
    pipeline.__call__ = wrapt.FunctionWrapper(raw, lambda wrapped, _, args, kwargs: wrapped(*args, **kwargs))
    handle = scope_patch.apply(pipe, **ALWAYS_PREDICT)
    pipeline.__call__ = raw
    handle.remove()
    assert same(before, snapshot())
    with scope_patch.patched(pipe, **ALWAYS_PREDICT) as run:
        generate(pipe)
    assert run.report["status"] == "applied" and same(before, snapshot())


@pytest.mark.parametrize("while_applied", [False, True])
def test_a_foreign_closure_that_hides_the_signature_is_refused(while_applied):
    """What cannot be checked is not patched; once the closure is gone, all is as before."""
    before = snapshot()
    pipeline, _ = owners()
    pipe = fake_pipeline()
    handle = scope_patch.apply(pipe) if while_applied else None
    raw = vars(pipeline)["__call__"]
    pipeline.__call__ = lambda self, *args, **kwargs: raw(self, *args, **kwargs)
    if handle is not None:
        handle.remove()
    with pytest.raises(NotApplied, match="can be given by keyword"):
        scope_patch.apply(pipe)
    pipeline.__call__ = before[0]["__call__"]
    with scope_patch.patched(pipe, **ALWAYS_PREDICT) as run:
        generate(pipe)
    assert run.report["status"] == "applied" and same(before, snapshot())


class Patching(RuleBasedStateMachine):
    """apply / remove / generate / fail / foreign patch above and off again, in any order."""

    def __init__(self):
        super().__init__()
        self.before = snapshot()
        self.pipe, self.handles, self.foreign = fake_pipeline(), [], None
        self.expected = generate(fake_pipeline())

    @rule()
    def apply_never(self):
        self.handles.append(scope_patch.apply(self.pipe, policy="never", strict=True))

    @rule()
    def apply_to_another(self):
        self.handles.append(scope_patch.apply(fake_pipeline(), **ALWAYS_PREDICT, strict=True))

    @precondition(lambda self: self.handles)
    @rule()
    def remove_first(self):
        self.handles.pop(0).remove()

    @precondition(lambda self: self.handles)
    @rule()
    def remove_last(self):
        self.handles.pop().remove()

    @rule()
    def generate_equals_the_unpatched_twin(self):
        assert torch.equal(generate(self.pipe), self.expected)

    @rule()
    def the_hosts_error_comes_through(self):
        self.pipe.transformer.fail_at = self.pipe.transformer.calls + 4
        with pytest.raises(RuntimeError, match="a fake one"):
            generate(self.pipe)
        self.pipe.transformer.fail_at = None

    @precondition(lambda self: self.foreign is None)
    @rule()
    def patch_on_top(self):
        owner = owners()[0]
        self.foreign = owner, vars(owner)["generate_timestep_matrix"]
        raw = self.foreign[1]
        owner.generate_timestep_matrix = wrapt.FunctionWrapper(
            raw, lambda wrapped, _, args, kwargs: wrapped(*args, **kwargs)
        )

    @precondition(lambda self: self.foreign is not None)
    @rule()
    def unpatch_on_top(self):
        owner, raw = self.foreign
        owner.generate_timestep_matrix = raw
        self.foreign = None

    @invariant()
    def seams_are_wrapped_only_while_asked_for(self):
        if not self.handles and self.foreign is None and not bindings()["skyreels-v2"].ledger.entries:
            assert same(self.before, snapshot())

    def teardown(self):
        for handle in self.handles:
            handle.remove()
        if self.foreign is not None:
            self.unpatch_on_top()
        # Who was on top of us puts our wrapper back when he goes; it is inert, and the next removal takes it along.
        assert torch.equal(generate(self.pipe), self.expected)
        with scope_patch.patched(self.pipe, **ALWAYS_PREDICT, strict=True) as run:
            generate(self.pipe)
        assert run.report["status"] == "applied" and same(self.before, snapshot())


TestPatching = Patching.TestCase
TestPatching.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
