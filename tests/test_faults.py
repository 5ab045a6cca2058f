"""Every function of ours that a host can reach fails once: the video is made all the same, with one warning.

Which functions those are is found out by watching generations, so a new function is among them by itself.
"""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from faults import CASES, InjectedError, Trial, Warned, Watch, place

from scope_patch.errors import ScopePatchError
from scope_patch.patch.attach import bindings

CALLED = "the host calls it in the place of its own: nothing of ours is around it"
CATCHES = "it is what catches; within it there is nothing but assignments and what is caught"
WITHIN = "it is a part of one that the host calls, and the host's own code runs within it"
EXCLUDED = {
    "bind.py:_video": CALLED,
    "bind.py:_forward": CALLED,
    "bind.py:_run": WITHIN,
    "bind.py:_finish": CATCHES,
    "bind.py:on_loop": CATCHES,
    "guard.py:__call__": CATCHES,
    "loops.py:entered": CALLED,
    "loops.py:__getitem__": CALLED,
    "clock.py:called_solver": CALLED,
    "bypass.py:forward": CALLED,
    "bypass.py:run": WITHIN,
    "guard.py:relayed": WITHIN,
    "frozen.py:__torch_function__": CALLED,
    "frozen.py:_begins": CALLED,
    "frozen.py:_ends": CALLED,
    "frozen.py:__exit__": WITHIN,
}
"""Functions that cannot fail without the host's seeing it, and why: all that stands between it and the guard."""
GENERATOR = 0x20
"""co_flags of a function whose later calls are resumptions: one may be its being thrown away."""
ERRORS = {
    "failure": lambda: InjectedError("on purpose"),
    "memory": lambda: torch.OutOfMemoryError("on purpose"),
    "interrupt": lambda: KeyboardInterrupt("on purpose"),
}


def moments(code, number):
    """At which of a function's calls in one generation it is to fail: the first, one in the middle, the last."""
    return [1] if code.co_flags & GENERATOR else sorted({1, (number + 1) // 2, number})


def survivable(trial):
    """The functions of a case, with the number of their calls."""
    return {code: number for code, number in trial.calls.items() if place(code) not in EXCLUDED}


def told(trial, code, at, error, follow=False):
    """Complaints, each with what failed when."""
    wrong = trial.complaints(code, at, error, follow=follow)
    return [f"{place(code)}:{code.co_firstlineno}, call {at}: {complaint}" for complaint in wrong]


@pytest.fixture(scope="module")
def trial_of(tmp_path_factory):
    """case -> its trial, made once: what it finds out about a host holds for all tests."""
    return functools.cache(lambda case: Trial(case, tmp_path_factory.mktemp("trial")))


@pytest.mark.parametrize("case", ["signal", "residual", "magi"])
def test_some_functions_fail(case, trial_of):
    """A part of the next test: every twentieth function, in turn failing, out of memory and interrupted."""
    trial = trial_of(case)
    errors = itertools.cycle(ERRORS.values())
    chosen = sorted(survivable(trial).items(), key=lambda item: (place(item[0]), item[0].co_firstlineno))
    skip = list(CASES).index(case)
    assert len(chosen) > 150, "the trace sees what a generation calls"
    wrong = []
    for code, number in chosen[skip::20]:
        trial.renew()  # what is known of the model must not hang on which function failed before
        with trial.patched():
            trial.case.run(trial.target)
        wrong += told(trial, code, moments(code, number)[len(moments(code, number)) // 2], next(errors)())
    assert not wrong, "\n".join(wrong)


@pytest.mark.long
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("case", CASES)
def test_every_function_fails(case, error, tmp_path, capsys):
    trial = Trial(case, tmp_path)
    wrong, tried = [], 0
    for code, number in survivable(trial).items():
        for at in moments(code, number):
            wrong += told(trial, code, at, ERRORS[error](), follow=at == 1)
            tried += 1
    with capsys.disabled():
        print(f"\n{case}, {error}: {tried} failures of {len(survivable(trial))} functions, {len(wrong)} complaints")
    assert not wrong, "\n".join(wrong)


@pytest.mark.long
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("case", ["signal", "placed", "residual", "teacache", "magi placed", "diffusers"])
def test_every_function_fails_that_only_a_new_model_needs(case, error, tmp_path, capsys):
    """Tracing the signal, above all: it is kept with the model."""
    trial = Trial(case, tmp_path)
    wrong, tried = [], 0
    for code, number in trial.fresh.items():
        if place(code) in EXCLUDED:
            continue
        for at in moments(code, number)[:1]:
            trial.renew()
            wrong += told(trial, code, at, ERRORS[error]())
            tried += 1
    with capsys.disabled():
        print(f"\n{case}, {error}, new model: {tried} failures, {len(wrong)} complaints")
    assert not wrong, "\n".join(wrong)


def test_no_more_is_excluded_than_must_be(trial_of):
    """Each of them is reached, and the host does see it fail."""
    needless, left = [], set(EXCLUDED)
    for case in ("signal", "magi", "residual", "frozen"):
        trial = trial_of(case)
        for code in trial.calls:
            if place(code) in left:
                left.remove(place(code))
                wrong = trial.complaints(code, 1, InjectedError("on purpose"), follow=False)
                if not any("the host got" in complaint for complaint in wrong):
                    needless.append(place(code))
    assert not needless and not left


def test_a_second_failure_while_the_first_is_told(monkeypatch, trial_of):
    """Letting go of the history fails, too; and so does the log."""
    from scope_patch.patch.session import Session

    trial = trial_of("signal")
    observe, calls = Session.observe, itertools.count()
    monkeypatch.setattr(Session, "observe", lambda *a: 1 / 0 if next(calls) == 0 else observe(*a))
    monkeypatch.setattr(Session, "forget", lambda self: 1 / 0)
    with trial.patched(), Warned() as warned:
        monkeypatch.setattr(warned, "emit", lambda record: 1 / 0)
        assert torch.equal(trial.case.run(trial.target), trial.alone)


def test_out_of_memory_of_ours_costs_one_generation(monkeypatch, trial_of):
    """There was no room for a velocity: the history is let go of, the host goes on; next time there may be room."""
    from scope_patch.method import history

    trial = trial_of("signal")
    record, calls = history.BranchHistory.record, itertools.count()

    at = 3

    def full(self, *args, **kwargs):
        if next(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 13 MiB")
        record(self, *args, **kwargs)

    monkeypatch.setattr(history.BranchHistory, "record", full)
    with trial.patched() as run, Warned() as warned, Watch(trial.model, trial.case.name) as watch:
        made = trial.case.run(trial.target)
        late = watch.calls[[number for number, blocks in enumerate(watch.calls) if blocks][at] :]
        assert torch.equal(trial.case.run(trial.target), trial.with_us), "the next one is as usual"
    assert made.isfinite().all() and set(late) == {watch.whole}
    (said,) = warned.said
    assert "ran out of memory" in said and "this generation" in said
    first, second = run.report["generations"]
    assert first["guards"]["memory"] == 1 and "Tried to allocate" in first["reasons"][0] and not second["reasons"]
    calls = itertools.count()
    with trial.patched(strict=True), pytest.raises(ScopePatchError, match="out of memory"):
        trial.case.run(trial.target)


@pytest.mark.parametrize("case", ["signal", "residual", "magi"])
@pytest.mark.parametrize("where", ["close", "tell"])
def test_strict_never_hides_the_hosts_error(case, where, monkeypatch, trial_of):
    """Ours would come after it, from what is done when a generation ends."""
    from scope_patch.patch.generation import Generation

    trial, theirs = trial_of(case), ValueError("the host's")
    seen = itertools.count()

    def fail(*_):
        if next(seen) == 2:
            raise theirs

    if where == "close":
        monkeypatch.setattr(Generation, "close", lambda *_: 1 / 0)
    module = getattr(trial.model, "patch_embedding", getattr(trial.model, "x_embedder", None))
    with trial.patched(strict=True):
        if where == "tell":
            bindings()[trial.case.name].requests[-1].tell = lambda: 1 / 0
        hook = module.register_forward_pre_hook(fail)
        with pytest.raises(ValueError, match="the host's") as caught:
            trial.case.run(trial.target)
        hook.remove()
    assert caught.value is theirs and theirs.__cause__ is None and theirs.__context__ is None


@pytest.mark.parametrize("where", ["keep_velocity", "complete_velocity"])
def test_a_narrowed_forward_gives_the_host_what_was_computed(where, monkeypatch, trial_of):
    """On MAGI-1, where the velocities of some chunks come from the history and those of the others from a forward."""
    from scope_patch.patch import session

    trial, work, failed, pairs = trial_of("magi"), getattr(session, where), [], []

    def fail(pending, *args):
        if pending.arguments is not None and not failed:
            failed.append(pending.clean_prefix + pending.slots[1] - pending.slots[0])
            raise ValueError("ours")
        return work(pending, *args)

    monkeypatch.setattr(session, where, fail)
    with trial.patched():
        owner = type(trial.model)
        ours = vars(owner)["forward_dispatcher"]

        def both(model, **arguments):
            before = len(failed)
            made = ours.__get__(model, owner)(**arguments)
            if len(failed) > before:
                pairs.append((made, ours.__wrapped__(model, **arguments)))
            return made

        monkeypatch.setattr(owner, "forward_dispatcher", both)
        trial.case.run(trial.target)
        monkeypatch.undo()
    ((made, host),) = pairs
    computed = slice(0, failed[0] * 6)
    assert made.shape == host.shape and torch.allclose(made[:, :, computed], host[:, :, computed], atol=1e-6)
    assert where == "keep_velocity" or torch.equal(made, host), "what could not be completed is the host's own, whole"
