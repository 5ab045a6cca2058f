"""Generations at the same time, inside of each other and in turns: none knows of another; or it runs unpatched."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack

import pytest
import torch
from hosts import ALWAYS_PREDICT, fake_magi, fake_pipeline, tiny_pipeline
from hosts import generate as generate_diffusers
from turns import Turns

import scope_patch
from scope_patch.patch import generation as generations
from scope_patch.patch import planning
from scope_patch.patch.attach import bindings
from scope_patch.patch.session import LOST

tiny = fake_magi()
HELD = {**ALWAYS_PREDICT, "predictor": "hold"}
RESIDUAL = {**ALWAYS_PREDICT, "level": "residual"}


def generate(pipe, **options):
    return pipe("a disc", **{"num_inference_steps": 6, "ar_step": 2, "num_frames": 15, **options})


def official(model=None, seed=0):
    pipe = fake_pipeline(seed=seed)
    if model is not None:
        pipe.transformer = model
    return pipe


def accelerated(pipe, run=generate, **settings):
    with scope_patch.patched(pipe, **settings, strict=True):
        return run(pipe)


@pytest.fixture
def turns():
    """`turns(models, functions)`: the functions in threads, which take turns within every forward of the models."""

    def run(models, functions):
        made = Turns()
        hooks = [
            getattr(model, "patch_embedding", getattr(model, "x_embedder", None)).register_forward_pre_hook(made.switch)
            for model in {id(model): model for model in models}.values()
        ]
        try:
            return made.run(functions)
        finally:
            for hook in hooks:
                hook.remove()
            assert made.switches > 10, "they really took turns"

    return run


@pytest.mark.parametrize("policy", [RESIDUAL, {"policy": "delta-dit"}])
def test_two_pipelines_in_two_threads(policy, turns):
    """Whole forwards: laws.py, on every host."""
    pipes = [official(seed=seed) for seed in (0, 1)]
    alone = [accelerated(pipe, **policy) for pipe in pipes]
    with ExitStack() as stack:
        for pipe in pipes:
            stack.enter_context(scope_patch.patched(pipe, **policy, strict=True))
        made = turns([pipe.transformer for pipe in pipes], [lambda pipe=pipe: generate(pipe) for pipe in pipes])
    assert all(torch.equal(a, b) for a, b in zip(made, alone, strict=True))


@pytest.mark.parametrize("policy", [ALWAYS_PREDICT, {"policy": "never"}])
def test_two_pipelines_with_one_model_in_two_threads(policy, turns):
    one = official()
    two = official(one.transformer)
    runs = [lambda: generate(one, seed=1), lambda: generate(two, seed=2, num_inference_steps=8)]
    with scope_patch.patched(one.transformer, **policy, strict=True) as run:
        alone = [work() for work in runs]
        made = turns([one.transformer], runs)
    assert all(torch.equal(a, b) for a, b in zip(made, alone, strict=True))
    assert len(run.generations) == 4 and all(generation.applied for generation in run.generations)


@pytest.mark.parametrize("policy", [ALWAYS_PREDICT, {"policy": "never"}])
def test_one_pipeline_in_two_threads(policy, turns):
    """This host keeps nothing of a call on itself; one that does is not made worse by us."""
    pipe = official()
    runs = [lambda: generate(pipe, seed=1), lambda: generate(pipe, seed=2, num_frames=25)]
    with scope_patch.patched(pipe, **policy, strict=True):
        alone = [work() for work in runs]
        assert all(torch.equal(a, b) for a, b in zip(turns([pipe.transformer], runs), alone, strict=True))


def test_two_magi_walks_over_one_model_in_two_threads(turns):
    model = tiny.make_model(num_frames=72, num_steps=12)
    settings = {"cache_threshold": 0, "predict_threshold": 0.1, "max_skip": 9}
    inputs = {seed: tiny.make_inputs(model, seed) for seed in (1, 2)}
    from inference.pipeline import video_generate

    def walk(seed):
        given = video_generate.extract_feature_for_inference(model, *inputs[seed])
        transport = video_generate.SampleTransport(model, [given], "cpu")
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(transport.xs[0].shape[1:], generator=generator)
        transport.xs[0] = torch.stack([start, start])  # the global generator is everybody's
        return torch.cat([chunk for _, _, chunk in transport.walk()], dim=2)

    with scope_patch.patched(model, **settings, strict=True) as run:
        alone = [walk(seed) for seed in (1, 2)]
        made = turns([model], [lambda seed=seed: walk(seed) for seed in (1, 2)])
    assert all(torch.equal(a, b) for a, b in zip(made, alone, strict=True))
    assert run.report["generations"][2]["forwards"]["skipped"] > 0


@pytest.mark.parametrize("threads", [True, False])
def test_two_magi_walks_over_one_model_in_turns(threads):
    model = tiny.make_model(num_frames=72, num_steps=12)
    settings = {"cache_threshold": 0, "predict_threshold": 0.1, "max_skip": 9, "strict": True}
    with scope_patch.patched(model, **settings):
        alone = [tiny.generate(model, seed=seed) for seed in (1, 2)]
        walks, made = [tiny.stream(model, seed=seed) for seed in (1, 2)], [[], []]

        def advance(k):
            chunk = next(walks[k], None)
            if chunk is not None:
                made[k].append(chunk)
            return chunk is not None

        going = [0, 1]
        while going:
            for k in list(going):
                more = Turns().run([lambda k=k: advance(k)])[0] if threads else advance(k)  # every time in a new thread
                if not more:
                    going.remove(k)
    assert all(torch.equal(torch.cat(a, dim=2), b) for a, b in zip(made, alone, strict=True))


def test_residuals_of_one_model_are_for_one_generation_at_a_time(turns):
    """Its blocks are replaced while a forward runs: the second generation runs unpatched, and says why."""
    one = official()
    two = official(one.transformer)
    expected = generate(two, seed=2)
    alone = accelerated(one, **RESIDUAL)
    blocks = one.transformer.blocks
    with scope_patch.patched(one.transformer, **RESIDUAL) as run:
        made = turns([one.transformer], [lambda: generate(one), lambda: generate(two, seed=2)])
        assert torch.equal(made[0], alone) and torch.equal(made[1], expected)
        assert one.transformer.blocks is blocks
        assert torch.equal(generate(one), alone), "and it is free again"
    first, second, third = run.generations
    assert first.applied and third.applied and not second.applied and second.reasons == [generations.SHARED]


@pytest.mark.parametrize("policy", [RESIDUAL, {"policy": "delta-dit"}])
@pytest.mark.parametrize("other", [None, ALWAYS_PREDICT])
def test_who_shares_a_model_does_not_see_its_residuals(policy, other, turns):
    """An unpatched pipeline, or one that skips whole forwards, in the midst of another's forward."""
    one = official()
    two = official(one.transformer)
    alone = accelerated(one, **policy)
    expected = generate(two, seed=2) if other is None else accelerated(two, lambda p: generate(p, seed=2), **other)
    with ExitStack() as stack:
        stack.enter_context(scope_patch.patched(one, **policy, strict=True))
        if other is not None:
            stack.enter_context(scope_patch.patched(two, **other, strict=True))
        made = turns([one.transformer], [lambda: generate(one), lambda: generate(two, seed=2)])
    assert torch.equal(made[0], alone) and torch.equal(made[1], expected)


def test_signals_are_traced_one_at_a_time(monkeypatch):
    """A tracer replaces methods of `nn.Module` while it works; two at once would leave one of them behind."""
    inside, most, slice_signal = [], [], planning.slice_signal

    def watched(*args, **kwargs):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        try:
            return slice_signal(*args, **kwargs)
        finally:
            inside.pop()

    monkeypatch.setattr(planning, "slice_signal", watched)
    call = vars(torch.nn.Module)["__call__"]
    pipes = [official(seed=seed) for seed in range(3)]
    with ExitStack() as stack:
        for pipe in pipes:
            stack.enter_context(scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True))
        threads = [threading.Thread(target=generate, args=(pipe,)) for pipe in pipes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1, 1, 1] and vars(torch.nn.Module)["__call__"] is call


def test_one_report_file_of_two_threads(tmp_path, caplog, turns):
    pipe = official()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, report=str(tmp_path / "run.json")):
        turns([pipe.transformer], [lambda: generate(pipe)] * 2)
    assert len(json.loads((tmp_path / "run.json").read_text())["generations"]) == 2
    told = [record.getMessage() for record in caplog.records if record.name == "scope_patch"]
    assert not [text for text in told if "could not" in text]
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("again", [False, True])
def test_a_failure_in_one_thread_switches_the_other_off_and_it_is_told(again, turns, monkeypatch):
    """In the midst of a forward, with its interval narrowed; also where somebody applies anew meanwhile."""
    from scope_patch.patch.session import Session

    one, two = official(), official(seed=1)
    fails, observe, handles = [], Session.observe, []

    def observed(self, *args):
        if self.record is handles[0].run.generations[0] and len(fails) == 0 and len(handles[0].run.generations) == 1:
            fails.append(len(handles[1].run.generations[0].segments[0].modes))
            raise ValueError("ours")
        return observe(self, *args)

    def first():
        made = generate(one)
        if again:
            handles.append(scope_patch.apply(one, **ALWAYS_PREDICT))
        return made

    handles += [scope_patch.apply(pipe, **ALWAYS_PREDICT) for pipe in (one, two)]
    monkeypatch.setattr(Session, "observe", observed)
    try:
        made = turns([one.transformer, two.transformer], [lambda: generate(one), lambda: (generate(two), first())[0]])
        assert torch.equal(generate(one), generate(official())) or again
    finally:
        for handle in handles:
            handle.remove()
    failed, other = handles[0].run.generations[0], handles[1].run.generations[0]
    assert fails and all(latents.isfinite().all() for latents in made)
    assert "failure of ours" in failed.reasons[0] and failed.reasons == other.reasons
    assert len(other.segments[0].modes) <= fails[0] + 1, "nothing is decided after that"


class Nesting:
    """Runs another generation inside of one, right after its forward number `at`."""

    def __init__(self, model, at, work):
        self.made, self._at, self._calls = None, at, 0
        self._work, self._hook = work, model.register_forward_hook(self._after)

    def _after(self, *_):
        self._calls += 1
        if self._calls == self._at:
            self._hook.remove()
            self.made = self._work()


@pytest.mark.parametrize("policy", [ALWAYS_PREDICT, HELD, {"policy": "never"}])
@pytest.mark.parametrize("shared", ["pipeline", "model"])
def test_a_generation_inside_of_a_forward_of_another(policy, shared):
    pipe = official()
    inner = pipe if shared == "pipeline" else official(pipe.transformer)
    with scope_patch.patched(pipe.transformer, **policy, strict=True) as run:
        alone = [generate(pipe), generate(inner, seed=3)]
        nested = Nesting(pipe.transformer, 5, lambda: generate(inner, seed=3))
        made = generate(pipe)
    assert torch.equal(made, alone[0]) and torch.equal(nested.made, alone[1])
    assert len(run.generations) == 4


@pytest.mark.parametrize("policy", [ALWAYS_PREDICT, HELD, {"policy": "never"}, RESIDUAL])
def test_a_generation_of_the_same_pipeline_in_its_callback(policy):
    """What the host makes of that is its own affair: under `never` it is the same without us."""
    pipe = tiny_pipeline()
    small = {"num_frames": 17, "num_inference_steps": 5, "ar_step": 0, "causal_block_size": 1}

    def outer(at):
        inner = []

        def callback(pipe, step, timestep, kwargs):
            if step == at:
                inner.append(generate_diffusers(pipe, seed=3, **small))
            return kwargs

        return generate_diffusers(pipe, **small, num_videos_per_prompt=1, callback_on_step_end=callback), inner

    unpatched = outer(2)
    with scope_patch.patched(pipe, **policy) as run:
        alone = generate_diffusers(pipe, seed=3, **small)
        made = outer(2)
        without = outer(99)
    again, inside = run.generations[1], run.generations[2]
    assert len(run.generations) == 4 and again.segments[0].modes == run.generations[3].segments[0].modes
    assert torch.equal(made[1][0], unpatched[1][0] if policy in ({"policy": "never"}, RESIDUAL) else alone)
    if policy is RESIDUAL:
        assert inside.reasons == [generations.SHARED]
    if policy == {"policy": "never"}:
        assert torch.equal(made[0], unpatched[0])
    if torch.equal(unpatched[0], generate_diffusers(pipe, **small)):
        assert torch.equal(made[0], without[0]), "the host can do it, and so can we"


def test_a_pipeline_nobody_asked_for_inside_of_one():
    """It has the same model, but is outside of the request: its forwards are its own."""
    pipe = official()
    other = official(pipe.transformer)
    expected = generate(other, seed=3)
    with scope_patch.patched(pipe, **HELD, strict=True) as run:
        alone = generate(pipe)
        nested = Nesting(pipe.transformer, 5, lambda: generate(other, seed=3))
        made = generate(pipe)
    assert torch.equal(made, alone) and torch.equal(nested.made, expected)
    first, second = (generation["segments"][0] for generation in run.report["generations"])
    assert first == second and run.report["generations"][1]["guards"] == run.report["generations"][0]["guards"]


class OddLoop(fake_pipeline().__class__):
    """A host whose loops are not as we know them: it makes two schedules ahead, or reads one interval and keeps it."""

    kind, order = "ahead", (0, 1)

    def _segment(self, prompt, *args):
        contexts = [self.encode(prompt, torch.float32), self.encode("", torch.float32)]
        template = torch.linspace(990, 90, 6).long()
        ar_step = 2 if self.kind == "ahead" else 0
        schedules = [self.generate_timestep_matrix(15, template, 15, ar_step, 0, 5) for _ in self.order]
        out = []
        for k in self.order:
            matrix, _, mask, intervals = schedules[k]
            latents = torch.randn(4, 15, 4, 4, generator=torch.Generator().manual_seed(k))
            kept = intervals[0]
            for i, timesteps in enumerate(matrix):
                start, end = kept if self.kind == "kept" else intervals[i]
                x, t = latents[None, :, start:end], timesteps[None, start:end]
                v = sum(self.transformer(x, t=t, context=context, fps=[1])[0] for context in contexts)
                latents[:, start:end] -= 0.05 * v * mask[i, start:end].view(1, -1, 1, 1)
            out.append(latents)
        return torch.cat(out, dim=1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1, 1, 0, 0)])
def test_schedules_made_ahead(order):
    """Only the newest is followed; forwards of another's iterations are the host's own."""
    pipe, width = OddLoop(), 15
    pipe.order = order
    expected = generate(pipe)
    with scope_patch.patched(pipe, **HELD, selective=False) as run:
        made = generate(pipe)
    newest = len(order) - 1
    for place, k in enumerate(order):
        part = slice(place * width, (place + 1) * width)
        same = torch.equal(made[:, part], expected[:, part])
        assert same == (k != newest), f"loop {place}, of schedule {k}"
    (generation,) = run.report["generations"]
    assert (LOST in generation["remarks"]) == any(k != newest for k in order)


def test_an_interval_that_was_read_once_and_kept():
    """No other iteration is seen to begin: all forwards run, and no memory is kept of them."""
    pipe = OddLoop()
    pipe.kind, pipe.order = "kept", (0, 1)
    expected = generate(pipe)
    with scope_patch.patched(pipe, **HELD) as run:
        assert torch.equal(generate(pipe), expected)
    (generation,) = run.report["generations"]
    assert generation["forwards"]["skipped"] == 0
    velocity = 4 * 15 * 4 * 4 * 4
    assert generation["history_bytes_peak"] <= 16 * velocity


def test_removal_in_the_middle_of_a_generation():
    """From then on the host is alone: its own intervals, all forwards."""
    pipe = official()
    handle = scope_patch.apply(pipe, **ALWAYS_PREDICT, selective=True)
    nested = Nesting(pipe.transformer, 5, handle.remove)
    made = generate(pipe)
    (record,) = handle.run.generations
    assert made.isfinite().all() and nested.made is None
    assert record.reasons == ["removed in the middle of this generation (unpatched from iteration 2 of segment 1 on)"]
    assert record.finished and record.status == "partly"
    assert record.forwards_run + record.forwards_skipped < pipe.transformer.calls + record.forwards_skipped


def test_a_thread_that_starts_with_a_copy_of_the_context_is_another_line():
    """As Python 3.14 can start them; work that outlives a generation is none of it, either."""
    from contextvars import copy_context

    pipe = official()
    x, t = torch.randn(1, 4, 15, 4, 4), torch.full((1, 15), 500)
    context = pipe.encode("a disc", torch.float32)
    seen, copies = [], []
    current = bindings()["skyreels-v2"]._current

    def spy():
        copies.append(copy_context())
        thread = threading.Thread(target=lambda: seen.append(copies[0].copy().run(lambda: current.innermost)))
        thread.start()
        thread.join()
        seen.append(current.innermost)
        return pipe.transformer(x, t, context, fps=[1])

    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True):
        Nesting(pipe.transformer, 3, spy)
        generate(pipe)
        assert seen[0] is None and seen[1] is not None
        assert copies[0].run(lambda: current.innermost) is None


def test_generations_in_greenlets():
    greenlet = pytest.importorskip("greenlet")
    pipe = official()
    runs = [lambda: generate(pipe, seed=1), lambda: generate(pipe, seed=2, num_frames=25)]
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True):
        alone, made, main = [work() for work in runs], {}, greenlet.getcurrent()
        lets = [greenlet.greenlet(lambda k=k: made.update({k: runs[k]()})) for k in (0, 1)]

        def pause(*_):
            main.switch()

        hook = pipe.transformer.patch_embedding.register_forward_pre_hook(pause)
        while not all(let.dead for let in lets):
            for let in lets:
                if not let.dead:
                    let.switch()
        hook.remove()
    assert all(torch.equal(made[k], alone[k]) for k in (0, 1))
