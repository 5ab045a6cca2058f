"""Skipped steps taken again: what the solver's sums are, when they may be used, and what becomes of it on the hosts."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from hosting.framepack import SUBJECTS as FRAMEPACK
from hosting.skyreels import FORCING, PLAIN
from hosts import fake_magi
from hypothesis import given, settings
from hypothesis import strategies as st

import scope_patch
from scope_patch.method.resolved import HostDefaults, method_of
from scope_patch.method.schedule import Schedule, Table
from scope_patch.patch import solver as solvers
from scope_patch.patch.replay import EDITED, ChunkReplays, SolverReplays
from scope_patch.settings import Settings

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SOLVERS = {
    "unipc": lambda: UniPCMultistepScheduler(**FLOW, flow_shift=3.0),
    "unipc, third order": lambda: UniPCMultistepScheduler(**FLOW, solver_order=3),
    "unipc, no corrector at 1 and 3": lambda: UniPCMultistepScheduler(**FLOW, disable_corrector=[1, 3]),
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "dpm": lambda: DPMSolverMultistepScheduler(**FLOW, algorithm_type="dpmsolver++", final_sigmas_type="zero"),
}
SHAPE = (2, 3, 4, 4)


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own


def made(name, steps=12):
    solver = SOLVERS[name]()
    solver.set_timesteps(steps)
    return solver


def schedule(solver, slots=1):
    steps = len(solver.timesteps)
    levels = solver.sigmas[:steps].double()[:, None].expand(steps, slots)
    table = Table(
        solver.timesteps.double()[:, None].expand(steps, slots),
        levels,
        torch.ones(steps, slots).bool(),
        [(0, slots)] * steps,
    )
    return Schedule.of(table)


class Loop:
    """A host's loop over one tensor, or over latent frames in place, with velocities that somebody gives.

    Attributes: replays, None: steps are taken as they are.
    """

    def __init__(self, solvers_, latents, replays=None, edit=lambda loop, i: None):
        self.solvers, self.latents, self.replays, self.edit = solvers_, latents, replays, edit

    def run(self, velocities, computed):
        for i, velocity in enumerate(velocities):
            for k, solver in enumerate(self.solvers):
                frames = len(self.solvers) > 1
                sample = self.latents[:, :, k] if frames else self.latents
                given = velocity[:, :, k] if frames else velocity
                step = type(solver).step
                if self.replays is not None:
                    branches = "both" if computed[i] else None
                    sample = self.replays.before(step, solver, given, sample, i, branches)
                (out,) = step(solver, given, solver.timesteps[i], sample, return_dict=False)
                if self.replays is not None:
                    self.replays.after(solver, out)
                if frames:
                    self.latents[:, :, k] = out
                else:
                    self.latents = out
            self.edit(self, i)
        return self.latents


def straightened(velocities, computed, levels):
    """Those that replays stand for: between the two computed ones around each, where there are two."""
    out, known = list(velocities), [i for i, fresh in enumerate(computed) if fresh]
    for first, last in itertools.pairwise(known):
        for k in range(first + 1, last):
            share = (levels[k] - levels[first]) / (levels[last] - levels[first])
            out[k] = torch.lerp(velocities[first], velocities[last], float(share))
    return out


@settings(max_examples=20)
@given(
    name=st.sampled_from(sorted(SOLVERS)),
    frames=st.sampled_from([1, 3]),
    computed=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_a_replay_is_what_the_solver_would_have_done(name, frames, computed):
    """Whatever was skipped: the end is that of the host's own solver over the interpolated velocities."""
    computed[0] = True
    generator = torch.Generator().manual_seed(len(name))
    shape = (1, 2, frames, 4, 4) if frames > 1 else (1, 2, 4, 4)
    start = torch.randn(shape, generator=generator)
    velocities = [torch.randn(shape, generator=generator) for _ in computed]
    one = made(name)
    replays = SolverReplays(schedule(one, frames), pytest.fail, joint=frames == 1)
    found = Loop([made(name) for _ in range(frames)], start.clone(), replays).run(velocities, computed)
    wanted = Loop([made(name) for _ in range(frames)], start.clone()).run(
        straightened(velocities, computed, one.sigmas), computed
    )
    last = max(i for i, fresh in enumerate(computed) if fresh)
    skipped = sum(not fresh for fresh in computed[:last])
    assert len(replays.taken) == skipped
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 2])
def test_where_nothing_is_skipped_nothing_changes(frames):
    shape = (1, 2, frames, 4, 4) if frames > 1 else (1, 2, 4, 4)
    velocities = [torch.randn(shape) for _ in range(12)]
    start = torch.randn(shape)
    replays = SolverReplays(schedule(made("unipc"), frames), pytest.fail, joint=frames == 1)
    found = Loop([made("unipc") for _ in range(frames)], start.clone(), replays).run(velocities, [True] * 12)
    assert torch.equal(found, Loop([made("unipc") for _ in range(frames)], start.clone()).run(velocities, [True] * 12))


def test_several_steps_are_sums_and_the_solver_is_not_touched():
    solver, sample = made("unipc"), torch.randn(SHAPE)
    (sample,) = solver.step(torch.randn(SHAPE), solver.timesteps[0], sample, return_dict=False)
    (sample,) = solver.step(torch.randn(SHAPE), solver.timesteps[1], sample, return_dict=False)
    before, kept = solvers.Snapshot.of(solver, sample), dict(vars(solver))
    places = [place for place, _ in solvers.remembered(vars(solver), sample.shape)]
    steps = [(float(solver.timesteps[i]), share) for i, share in ((2, 0.0), (3, 0.4))]
    weights = solvers.weights(
        type(solver).step, type(solver), before, solvers.constants(solver), places, steps, in_place=False, dims=4
    )
    first, last = torch.randn(SHAPE), torch.randn(SHAPE)
    resumed = copy.deepcopy(solver)
    latents = solvers.resume(resumed, weights, before, sample, first, last)
    memory = dict(solvers.remembered(vars(resumed), sample.shape))
    assert all(vars(solver)[name] is value for name, value in kept.items())
    twin = copy.deepcopy(solver)
    for i, share in ((2, 0.0), (3, 0.4)):
        (sample,) = twin.step(torch.lerp(first, last, share), twin.timesteps[i], sample, return_dict=False)
    torch.testing.assert_close(latents, sample, rtol=1e-5, atol=1e-5)
    for place, tensor in solvers.remembered(vars(twin), sample.shape):
        torch.testing.assert_close(memory[place], tensor, rtol=1e-5, atol=1e-5)


class Noisy(FlowMatchEulerDiscreteScheduler):
    def step(self, model_output, timestep, sample, return_dict=True):
        (out,) = super().step(model_output, timestep, sample, return_dict=False)
        return (out + torch.randn(out.shape),)


class Clipped(FlowMatchEulerDiscreteScheduler):
    def step(self, model_output, timestep, sample, return_dict=True):
        (out,) = super().step(model_output, timestep, sample, return_dict=False)
        return (out.clamp(-0.7, 0.7),)


@pytest.mark.parametrize(("kind", "why"), [(Noisy, "random"), (Clipped, "linear")])
def test_a_solver_that_is_no_sum_is_left_alone_and_that_is_said(kind, why):
    solver, told = kind(), []
    solver.set_timesteps(12)
    velocities, start = [torch.randn(SHAPE) for _ in range(12)], torch.randn(SHAPE)
    replays = SolverReplays(schedule(solver), told.append, joint=True)
    computed = [i % 3 == 0 for i in range(12)]
    state = torch.random.get_rng_state()
    found = Loop([solver], start.clone(), replays).run(velocities, computed)
    twin = kind()
    twin.set_timesteps(12)
    torch.random.set_rng_state(state)
    assert torch.equal(found, Loop([twin], start.clone()).run(velocities, computed))
    assert not replays.taken and replays.off and not replays.bytes
    assert len(told) == 1 and kind.__name__ in told[0] and why in told[0]


def edit_in_place(loop, i):
    if i == 4:
        loop.latents.mul_(1.5)


def edit_anew(loop, i):
    if i == 4:
        loop.latents = loop.latents * 1.5


@pytest.mark.parametrize("edit", [edit_in_place, edit_anew])
@pytest.mark.parametrize("frames", [1, 2])
def test_an_edit_of_the_latents_ends_the_stretch_and_is_kept(frames, edit):
    """What was skipped before it stays as it was; what is skipped after it is taken again."""
    shape = (1, 2, frames, 4, 4) if frames > 1 else (1, 2, 4, 4)
    velocities, start, told = [torch.randn(shape) for _ in range(12)], torch.randn(shape), []
    computed = [i in (0, 3, 6, 9) for i in range(12)]
    one = made("unipc")
    replays = SolverReplays(schedule(one, frames), told.append, joint=frames == 1)
    found = Loop([made("unipc") for _ in range(frames)], start.clone(), replays, edit).run(velocities, computed)
    levels = one.sigmas
    wanted = straightened(velocities, [i in (0, 3) for i in range(4)], levels)[:4] + velocities[4:6]
    wanted += straightened(velocities[6:], computed[6:], levels[6:])
    same = Loop([made("unipc") for _ in range(frames)], start.clone(), None, edit).run(wanted, computed)
    torch.testing.assert_close(found, same, rtol=1e-4, atol=1e-4)
    assert told == [EDITED]


def test_latents_whose_edits_nobody_counts():
    told = []
    with torch.inference_mode():
        velocities, start = [torch.randn(SHAPE) for _ in range(12)], torch.randn(SHAPE)
        computed = [i % 3 == 0 for i in range(12)]
        blind = SolverReplays(schedule(made("unipc")), told.append, joint=True, blind=True)
        Loop([made("unipc")], start.clone(), blind).run(velocities, computed)
        assert blind.off and "inference mode" in told[0]
        alone = SolverReplays(schedule(made("unipc")), pytest.fail, joint=True)
        Loop([made("unipc")], start.clone(), alone).run(velocities, computed)
        assert len(alone.taken) == 6 and not alone.off


def test_velocities_of_other_branches_are_of_another_curve():
    solver = made("euler")
    replays = SolverReplays(schedule(solver), pytest.fail, joint=True)
    sample = torch.randn(SHAPE)
    for i, branches in enumerate([("a", "b"), None, None, ("a", "c"), None, ("a", "c")]):
        given = replays.before(type(solver).step, solver, torch.randn(SHAPE), sample, i, branches)
        (sample,) = solver.step(torch.randn(SHAPE), solver.timesteps[i], given, return_dict=False)
        replays.after(solver, sample)
        assert len(replays.taken) == (1 if i == 5 else 0)


def test_more_solvers_than_latent_frames_are_none_of_ours():
    told, one = [], made("euler")
    replays = SolverReplays(schedule(one), told.append, joint=True)
    for solver in (one, made("euler")):
        replays.before(type(solver).step, solver, torch.zeros(SHAPE), torch.zeros(SHAPE), 0, "both")
    assert replays.off and "more often" in told[0]


@pytest.mark.parametrize("rows", [1, 2])
def test_chunks_are_integrated_by_eulers_rule(rows):
    levels = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.1], dtype=torch.float64)[:, None]
    table = Table(levels, levels, torch.ones(5, 1).bool(), [(0, 1)] * 5, moving=True, frames=2)
    replays = ChunkReplays(Schedule.of(table), pytest.fail)
    latents = torch.randn(1, 3, 2, 4, 4).expand(rows, -1, -1, -1, -1).clone()
    start, velocities = latents.clone(), [torch.randn(1, 3, 2, 4, 4).expand_as(latents) for _ in range(4)]
    for i, computed in enumerate([True, False, False, True]):
        if computed:
            replays.integrate(0, i, latents, velocities[i], "all")
        latents = latents + velocities[i] * float(levels[i] - levels[i + 1])
    wanted = start
    for i, velocity in enumerate(straightened(velocities, [True, False, False, True], levels[:, 0])):
        wanted = wanted + velocity * float(levels[i] - levels[i + 1])
    torch.testing.assert_close(latents, wanted)
    assert replays.taken == {1, 2} and replays.bytes == 2 * start[:1].nbytes


# --- on the hosts: a DiT whose velocities are straight in the timestep, so that interpolating them errs nowhere ---

CASES = {subject.name: subject for subject in [*FORCING, *PLAIN, *FRAMEPACK]}
SKIPPING = {
    "cache_threshold": 0.0,
    "predict_threshold": 1e9,
    "max_skip": 2,
    "predictor": "hold",
    "frozen_keys": "off",
}


def straighten(model):
    """Its velocities become a + b t, whatever its latents; returns what undoes that."""

    def straight(module, args, kwargs, output):
        (made,) = output if isinstance(output, tuple) else (output.sample,)
        given, timestep = kwargs["hidden_states"], kwargs["timestep"].float() / 1000
        generator = torch.Generator().manual_seed(7)
        batch, channels, frames, *size = made.shape
        slope = torch.randn(channels, 40, *size, generator=generator)[:, :frames]
        start = torch.randn(channels, 40, *size, generator=generator)[:, :frames]
        timestep = timestep[:, None, :, None, None] if timestep.dim() == 2 else timestep.view(-1, 1, 1, 1, 1)
        made = (start + slope * timestep).expand(batch, -1, -1, -1, -1).to(given.dtype)
        return (made,)

    return model.register_forward_hook(straight, with_kwargs=True)


@pytest.mark.parametrize("name", CASES)
def test_on_the_host_nothing_is_left_of_what_was_skipped(name):
    """Repeating the last velocity errs; with the steps taken again nothing does, if the last step is no skipped one."""
    subject = CASES[name]
    steps = {"steps": 29} if "steps" in subject.target else {"num_inference_steps": 29, "ar_step": 0}
    pipe, options = subject.make(**subject.target), {**subject.target, **steps}
    straighten(subject.model(pipe))
    plain = subject.generate(pipe, 0, **options)
    errors = {}
    for replay in (True, False):
        with scope_patch.patched(pipe, strict=True, replay=replay, **SKIPPING) as run:
            made = subject.generate(pipe, 0, **options)
        errors[replay] = float((made - plain).norm() / plain.norm())
        generation = run.report["generations"][0]
        assert [segment["modes"][-4:] for segment in generation["segments"]] == ["RPPR"] * len(generation["segments"])
        assert (generation["segments"][0]["again"] > 0) is replay
        assert (generation["replay_bytes_peak"] > 0) is replay
        assert not [remark for remark in generation["remarks"] if "again" in remark]
    assert errors[True] < 1e-3 < 1e-2 < errors[False], errors  # levels are rounded to timesteps


def test_a_callback_that_edits_is_told_of_and_its_edit_is_kept():
    """In the middle of a stretch; what comes after it is taken again as before."""
    subject = FORCING[0]
    pipe, options = subject.make(), {"num_inference_steps": 14, "ar_step": 0, "causal_block_size": 1}
    straighten(subject.model(pipe))

    def edit(pipe, step, timestep, given):
        if step == 4:
            given["latents"] = given["latents"] * 0.5
        return given

    plain = subject.generate(pipe, 0, callback_on_step_end=edit, **options)
    with scope_patch.patched(pipe, strict=True, replay=True, **SKIPPING) as run:
        made = subject.generate(pipe, 0, callback_on_step_end=edit, **options)
    generation = run.report["generations"][0]
    assert EDITED in generation["remarks"] and generation["segments"][0]["again"] > 0
    with scope_patch.patched(pipe, strict=True, replay=False, **SKIPPING):
        without = subject.generate(pipe, 0, callback_on_step_end=edit, **options)
    assert 0 < (made - plain).norm() < (without - plain).norm()  # the steps around the edit err as they did


def test_in_inference_mode_a_callback_switches_it_off():
    subject = FORCING[0]
    pipe, options = subject.make(), {"num_inference_steps": 12, "ar_step": 0, "causal_block_size": 1}
    for callback in (None, lambda pipe, step, timestep, given: given):
        with torch.inference_mode(), scope_patch.patched(pipe, strict=True, replay=True, **SKIPPING) as run:
            subject.generate(pipe, 0, callback_on_step_end=callback, **options)
        generation = run.report["generations"][0]
        assert any("inference mode" in remark for remark in generation["remarks"]) is (callback is not None)
        assert (generation["segments"][0]["again"] > 0) is (callback is None)


@pytest.mark.parametrize("cfg", [1, 3])
@pytest.mark.parametrize("prefix_frames", [0, 1, 32])
def test_magis_chunks_err_less(cfg, prefix_frames):
    tiny = fake_magi()
    model = tiny.make_model(cfg=cfg, num_steps=64)
    plain = tiny.generate(model, prefix_frames=prefix_frames)
    errors = {}
    for replay in (True, False):
        with scope_patch.patched(model, strict=True, target_speedup=2.66, replay=replay) as run:
            made = tiny.generate(model, prefix_frames=prefix_frames)
        errors[replay] = float((made - plain).norm() / plain.norm())
        generation = run.report["generations"][0]
        assert (generation["segments"][0]["again"] > 0) is replay
        assert (generation["replay_bytes_peak"] > 0) is replay and not generation["remarks"]
    assert errors[True] < errors[False] * (1.1 if prefix_frames else 1), errors  # random weights: few chunks are noise


def test_where_it_is_the_default():
    """Where a speed-up is aimed at; not where thresholds or a rival say what is done, unless it is asked for."""
    defaults = HostDefaults({"fast": 5.27})
    for settings_, on in (
        ({}, True), ({"preset": "fast"}, True), ({"target_speedup": 3}, True), ({"replay": False}, False),
        ({"cache_threshold": 0.1}, False), ({"policy": "teacache"}, False), ({"policy": "never"}, False),
        ({"policy": "never", "replay": True}, False), ({"predict_threshold": 1, "replay": True}, True),
    ):  # fmt: skip
        assert method_of(Settings(**settings_), defaults).replays is on, settings_
