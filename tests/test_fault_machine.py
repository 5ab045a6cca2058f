"""Anything in any order, on three hosts: after each step they make what they make alone, or raise their own error."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
import weakref

import pytest
import torch
import wrapt
from faults import Calls, Failure, InjectedError, Trial, owners, place, same
from hosts import fake_pipeline
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_faults import EXCLUDED

import scope_patch
from scope_patch.method.history import BranchHistory
from scope_patch.patch import attach
from scope_patch.patch.attach import bindings
from scope_patch.settings import Settings

REQUESTS = {
    "never": {"policy": "never"},
    "predict": {"cache_threshold": 0.0, "predict_threshold": 1e9},
    "narrowed": {"cache_threshold": 0.0, "predict_threshold": 0.1, "max_skip": 9},
    "residual": {"cache_threshold": 0.0, "predict_threshold": 1e9, "level": "residual"},
}
THEIRS = (ValueError, KeyboardInterrupt, torch.OutOfMemoryError, GeneratorExit)
_trials: dict[str, Trial] = {}


def trial_of(case, folder):
    if case not in _trials:
        _trials[case] = Trial(case, folder)
    return _trials[case]


class Machine(RuleBasedStateMachine):
    """One host, patched and unpatched, and things that go wrong."""

    case, folder = "signal", None

    def __init__(self):
        super().__init__()
        self.trial = trial_of(self.case, self.folder)
        self.name = self.trial.case.name
        self.before = owners(self.name)
        self.handles: list[tuple[str, object]] = []
        self.foreign: list[tuple[type, str, object, object]] = []
        self.armed = False
        self.alive: weakref.WeakSet[BranchHistory] = weakref.WeakSet()
        self.patch = pytest.MonkeyPatch()
        made, alive = BranchHistory.__init__, self.alive

        def watched(history, *args):
            made(history, *args)
            alive.add(history)

        self.patch.setattr(BranchHistory, "__init__", watched)
        # pytest keeps what is logged, with the tracebacks, and they keep the frames, and those the histories.
        self.patch.setattr(logging.getLogger("scope_patch"), "propagate", False)

    # Requests.

    @initialize(request=st.sampled_from([*REQUESTS]))
    def apply_first(self, request):
        self.apply(request)

    @rule(request=st.sampled_from([*REQUESTS]))
    def apply(self, request):
        given = {**REQUESTS[request], "selective": request != "narrowed"}
        self.handles.append((request, scope_patch.apply(self.trial.target, **given)))

    @precondition(lambda self: self.handles)
    @rule(index=st.integers(0, 5))
    def remove(self, index):
        self.handles.pop(index % len(self.handles))[1].remove()

    @precondition(lambda self: not self.armed)
    @rule()
    def arm(self):
        """The hosts are imported already, so that this attaches at once."""
        attach.arm(Settings(policy="never"))
        self.armed = True

    @rule(on_top=st.booleans(), which=st.integers(0, 3))
    def foreign_patch(self, on_top, which):
        """On top of us, or (where nothing of ours is there yet) below."""
        if len(self.foreign) > 1 or (not on_top and (self.handles or self.armed)):
            return
        host = bindings()[self.name].host
        seams = [seam for seam in host.seams(host.videos[0]) if seam.role != "read"]
        seam = seams[which % len(seams)]
        owner = getattr(sys.modules[seam.module], seam.owner)
        if seam.replaced not in vars(owner):
            return
        raw = vars(owner)[seam.replaced]
        put = wrapt.FunctionWrapper(raw, lambda wrapped, _, args, kwargs: wrapped(*args, **kwargs))
        setattr(owner, seam.replaced, put)
        self.foreign.append((owner, seam.replaced, raw, put))

    @precondition(lambda self: self.foreign)
    @rule()
    def foreign_unpatch(self):
        owner, name, raw, put = self.foreign.pop()
        if vars(owner)[name] is put:
            setattr(owner, name, raw)

    # Generations.

    @property
    def exact(self):
        """Whether what runs now must equal the unpatched host bit by bit."""
        broken = bindings()[self.name].guard.broken
        return broken or (self.handles[-1][0] if self.handles else "never") == "never"

    def check(self, made, expected, exact):
        assert made.shape == expected.shape and made.dtype == expected.dtype
        if exact:
            assert torch.equal(made.nan_to_num(7.0), expected.nan_to_num(7.0))
        assert made.isfinite().all() or not expected.isfinite().all()

    def run(self):
        return self.trial.case.run(self.trial.target)

    def hooked(self, at, act):
        """Run with `act(output)` in place of the output of the embedding at its call number `at`; how often it ran."""
        module = getattr(self.trial.model, "patch_embedding", getattr(self.trial.model, "x_embedder", None))
        calls = []

        def ran(module, args, output):
            calls.append(1)
            return act(output) if len(calls) == at else None

        hook = module.register_forward_hook(ran)
        try:
            return self.run()
        finally:
            hook.remove()

    @rule()
    def generate(self):
        self.check(self.run(), self.trial.alone, self.exact)

    @rule(at=st.integers(1, 6), kind=st.sampled_from(THEIRS))
    def the_host_raises(self, at, kind):
        error = kind("the host's")

        def fail(output):
            raise error

        with pytest.raises(kind) as caught:
            self.hooked(at, fail)
        assert caught.value is error and error.__cause__ is None and error.__context__ is None
        assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"
        caught.value.__traceback__ = None

    @rule(at=st.integers(1, 6))
    def a_velocity_is_not_a_number(self, at):
        def spoil(output):
            return output * torch.nan

        scopes = bindings()[self.name].requests
        asked, scopes[:] = [*scopes], []  # nobody asks for anything: the unpatched twin
        expected = self.hooked(at, spoil)
        scopes[:] = asked
        self.check(self.hooked(at, spoil), expected, self.exact)

    @rule(seed=st.integers(0, 10**6), kind=st.sampled_from([InjectedError, torch.OutOfMemoryError, KeyboardInterrupt]))
    def we_raise(self, seed, kind):
        """Any of our functions, at any of its calls; one warning, unless a signal could be had no more."""
        with Calls() as calls:
            self.run()
        codes = sorted(
            (code for code in calls.of if place(code) not in EXCLUDED and not code.co_flags & 0x20),
            key=lambda code: (place(code), code.co_firstlineno),
        )
        if not codes:
            return
        code, exact = codes[seed % len(codes)], self.exact
        error = kind("on purpose")
        came = None
        with Failure(code, 1 + seed % calls.of[code], error):
            try:
                self.check(self.run(), self.trial.alone, exact)
            except KeyboardInterrupt as raised:
                came = raised
        assert came in (None, error)
        error.__traceback__ = None

    # What always holds.

    @invariant()
    def nothing_is_left(self):
        assert not bindings()[self.name]._current.generations
        if self.alive:
            gc.collect()  # pytest's own hold on an error that was caught
        assert not self.alive, "memory of a history that nobody needs"
        assert not any("StandIn" in type(module).__name__ for module in self.trial.model.modules())

    @invariant()
    def classes_are_as_they_were(self):
        binding = bindings()[self.name]
        if not self.handles and not self.armed and not self.foreign and not binding.ledger.entries:
            assert same(self.before, owners(self.name))

    def teardown(self):
        while self.foreign:
            self.foreign_unpatch()
        for _, handle in self.handles:
            handle.remove()
        if self.armed:
            self._disarm()
        self.check(self.run(), self.trial.alone, True)
        with scope_patch.patched(self.trial.target, **self.trial.settings, strict=True):
            assert torch.equal(self.run(), self.trial.with_us)
        assert same(self.before, owners(self.name))
        self.patch.undo()

    def _disarm(self):
        """What no user can do: a process that was armed stays armed."""
        scope, attach._armed = attach._armed, None
        for binding in bindings().values():
            binding.requests.remove(scope)
            if not binding.requests:
                binding.detach()
        import atexit

        atexit.unregister(scope.tell.__self__.close)


def machine(case, folder, examples, steps):
    """Try it: so many runs of so many steps."""
    from hypothesis.stateful import run_state_machine_as_test

    made = type(f"Machine_{case}", (Machine,), {"case": case, "folder": folder})
    run_state_machine_as_test(
        made,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # to make a failure smaller takes as long as a thousand runs
        ),
    )


@pytest.mark.parametrize("case", ["signal", "magi"])
def test_a_few_runs(case, tmp_path):
    machine(case, tmp_path, 4, 10)


@pytest.mark.long
@pytest.mark.parametrize(("case", "examples"), [("signal", 150), ("magi", 80), ("diffusers", 30)])
def test_many_runs(case, examples, tmp_path):
    machine(case, tmp_path, examples, 25)


class ChangingLoop(fake_pipeline().__class__):
    """A host whose latents become others in the middle of its loop."""

    change, at = staticmethod(lambda x: x), 3

    def _segment(self, prompt, *args):
        contexts = [self.encode(prompt, torch.float32), self.encode("", torch.float32)]
        matrix, _, mask, intervals = self.generate_timestep_matrix(15, torch.linspace(990, 90, 8).long(), 15, 0, 0, 5)
        latents = torch.randn(1, 4, 15, 4, 4, generator=torch.Generator().manual_seed(0))
        for i, timesteps in enumerate(matrix):
            if i == self.at:
                latents = self.change(latents)
                contexts = [context.expand(len(latents), -1, -1) for context in contexts]
            start, end = intervals[i]
            x, batch = latents[:, :, start:end], len(latents)
            t = timesteps[None, start:end].expand(batch, -1)
            v = sum(self.transformer(x.float(), t=t, context=c, fps=[1] * batch) for c in contexts)
            latents = latents - 0.05 * v.to(latents.dtype) * mask[i, start:end].view(1, 1, -1, 1, 1)
        return latents


CHANGES = {
    "batch": lambda x: torch.cat([x, x.flip(0)]),
    "size": lambda x: x.repeat(1, 1, 1, 2, 1),
    "smaller": lambda x: x[..., :2],
    "dtype": lambda x: x.double(),
}


@pytest.mark.parametrize("level", ["velocity", "residual"])
@pytest.mark.parametrize("change", CHANGES)
def test_latents_that_change_between_steps(change, level):
    pipe = ChangingLoop()
    pipe.change = CHANGES[change]
    expected = pipe("a disc")
    with scope_patch.patched(pipe, policy="never", strict=True):
        assert torch.equal(pipe("a disc"), expected)
    with scope_patch.patched(pipe, **REQUESTS["predict"], level=level, strict=True) as run:
        made = pipe("a disc")
    assert made.shape == expected.shape and made.dtype == expected.dtype and made.isfinite().all()
    (generation,) = run.report["generations"]
    assert generation["forwards"]["skipped"] > 0 and generation["finished"]


@pytest.mark.parametrize("at", [2, 3, 4, 5])
def test_a_dit_whose_velocity_becomes_of_another_dtype(at):
    """Its weights are cast in the middle of the loop, as an offloading host may do."""
    pipe = fake_pipeline()

    def run():
        calls = []

        def cast(module, args, output):
            calls.append(1)
            return output.double() if len(calls) > at else output

        hook = pipe.transformer.register_forward_hook(cast)
        try:
            return pipe("a disc")
        finally:
            hook.remove()

    expected = run()
    with scope_patch.patched(pipe, policy="never", strict=True):
        assert torch.equal(run(), expected)
    with scope_patch.patched(pipe, **REQUESTS["predict"], strict=True):
        made = run()
    assert made.dtype == expected.dtype and made.isfinite().all()


def test_an_interrupted_pipeline_at_the_residual_level():
    """`pipe._interrupt` makes the loop turn without forwards (at the velocity's level: laws.py)."""
    from hosts import generate, tiny_pipeline

    pipe = tiny_pipeline()
    small = {"num_frames": 17, "num_inference_steps": 5, "ar_step": 2, "causal_block_size": 1}

    def callback(pipe, step, timestep, kwargs):
        pipe._interrupt = step >= 3
        return kwargs

    expected = generate(pipe, callback_on_step_end=callback, **small)
    with scope_patch.patched(pipe, **REQUESTS["residual"], strict=True) as run:
        made = generate(pipe, callback_on_step_end=callback, **small)
        usual = generate(pipe, **small)
        assert torch.equal(generate(pipe, **small), usual)
    assert made.shape == expected.shape and made.isfinite().all()
    assert len(run.generations) == 3 and all(generation.finished for generation in run.generations)
