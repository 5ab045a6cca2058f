"""Rivals behind the policy seam, against other people's implementations and on their own rules."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hosts import CountForwards, fake_magi, fake_pipeline, generate, tiny_pipeline

import scope_patch
from scope_patch.errors import NotApplied, UsageError
from scope_patch.method import policies
from scope_patch.method.decision import Mode, Observation, Size
from scope_patch.settings import Settings

SYNCHRONOUS = {"ar_step": 0, "causal_block_size": 1, "num_frames": 33, "num_inference_steps": 20}


def modes(run):
    return "".join(segment["modes"] for segment in run.report["generations"][0]["segments"])


def patched(pipe, make, **settings):
    with scope_patch.patched(pipe, strict=True, **settings) as run:
        made = make(pipe)
    return torch.as_tensor(made), run


@pytest.mark.parametrize(
    ("interval", "warmup", "order", "schedule"),
    [
        (2, 3, 1, SYNCHRONOUS),
        (3, 2, 1, SYNCHRONOUS),
        (5, 3, 2, SYNCHRONOUS),
        (4, 3, 0, SYNCHRONOUS),
        (3, 3, 2, {"num_frames": 97, "num_inference_steps": 12}),
    ],
)
def test_taylorseer_is_diffusers_lite_mode(interval, warmup, order, schedule):
    """diffusers forecasts the output of `proj_out` there, which is the velocity; its own loop and hooks run here."""
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "TaylorSeerCacheConfig"):
        pytest.skip("this diffusers has no TaylorSeer")
    theirs = tiny_pipeline()
    theirs.transformer.enable_cache(
        diffusers.TaylorSeerCacheConfig(
            cache_interval=interval,
            disable_cache_before_step=warmup,
            max_order=order,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        )
    )
    expected = generate(theirs, **schedule)
    policy = f"taylorseer:interval={interval},max_order={order},warmup={warmup},first=2"
    made, run = patched(tiny_pipeline(), lambda pipe: generate(pipe, **schedule), policy=policy)
    assert (made - expected).norm() < 1e-6 * expected.norm()
    assert run.report["generations"][0]["forwards"]["skipped"] > 8
    if order == 0:
        assert torch.equal(made, expected)


def test_taylorseer_recomputes_where_the_authors_code_does():
    """Their `cal_type`: all of `first_enhance`, then a counter that runs to N - 1."""
    for interval, warmup in ((1, 1), (2, 3), (5, 3), (6, 1)):
        counter, expected = 0, ""
        for step in range(30):
            full = step < warmup or counter == interval - 1
            counter, expected = (0, expected + "R") if full else (counter + 1, expected + "P")
        policy = policies.create(Settings(policy=f"taylorseer:interval={interval},warmup={warmup}"))
        seen = [Observation(None, False, 3, iteration=i, iterations=30) for i in range(30)]
        assert "".join(policy.step(None, each)[1].mode.value for each in seen) == expected


HOSTS = {"official": (fake_pipeline, lambda pipe: pipe("a disc")), "diffusers": (tiny_pipeline, generate)}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    "settings",
    [
        {"level": "residual"},
        {"policy": "teacache:ckpt_dir=none,teacache_thresh=0.4,use_ret_steps=1"},
        {"policy": "taylorseer:interval=3", "level": "residual"},
    ],
    ids=str,
)
def test_a_skipped_forward_runs_embedding_and_head_and_no_block(host, settings):
    build, make = HOSTS[host]
    pipe = build()
    expected, blocks = torch.as_tensor(make(pipe)), pipe.transformer.blocks
    count = CountForwards(pipe.transformer)
    made, run = patched(pipe, make, **settings)
    count.remove()
    told = run.report["generations"][0]["forwards"]
    assert told["skipped"] > 10 and count.blocks == 2 * told["run"]
    assert count.forwards == told["baseline"], "the embedding is fresh at every step"
    assert pipe.transformer.blocks is blocks and pipe.transformer._modules["blocks"] is blocks
    assert 0 < (made - expected).norm() < 0.1 * expected.norm()


def test_the_blocks_are_back_after_a_host_that_raises():
    pipe = fake_pipeline()
    blocks = pipe.transformer.blocks
    pipe.transformer.fail_at = 9
    with scope_patch.patched(pipe, level="residual", strict=True), pytest.raises(RuntimeError, match="out of memory"):
        pipe("a disc")
    assert pipe.transformer.blocks is blocks


@pytest.mark.parametrize("host", HOSTS)
def test_never_at_the_residual_level_is_bit_identical(host):
    build, make = HOSTS[host]
    pipe = build()
    expected = torch.as_tensor(make(pipe))
    assert torch.equal(patched(pipe, make, policy="never", level="residual")[0], expected)


def test_without_a_skip_the_stand_in_is_bit_identical():
    pipe = tiny_pipeline()
    expected = generate(pipe)
    made, run = patched(pipe, generate, policy="taylorseer:interval=1", level="residual")
    assert torch.equal(made, expected) and set(modes(run)) == {"R"}


def test_a_residual_that_does_not_fit_runs_the_blocks(monkeypatch):
    """Nobody's video is lost over a residual: the host gets what its blocks make."""
    from scope_patch.patch import bypass

    pipe = tiny_pipeline()
    expected = generate(pipe)
    forward = bypass.StandIn.forward

    def other_shape(self, hidden, *args, **kwargs):
        self.added = None if self.added is None else self.added[:, 1:]
        return forward(self, hidden, *args, **kwargs)

    monkeypatch.setattr(bypass.StandIn, "forward", other_shape)
    made, run = patched(pipe, generate, policy="taylorseer", level="residual")
    assert torch.equal(made, expected)
    assert run.report["generations"][0]["forwards"] == {"baseline": 36, "run": 36, "skipped": 0}


def test_residual_level_is_refused_on_a_compiled_model_and_on_magi():
    pipe = tiny_pipeline()
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    with scope_patch.patched(pipe, level="residual", strict=True), pytest.raises(NotApplied, match="compiled"):
        generate(pipe)
    tiny = fake_magi()
    model = tiny.make_model()
    with (
        scope_patch.patched(model, policy="teacache", strict=True),
        pytest.raises(NotApplied, match=r"keys and values.*--level velocity"),
    ):
        tiny.generate(model, prefix_frames=32)


@pytest.mark.parametrize("policy", ["teacache:ckpt_dir=none", "taylorseer"])
def test_a_target_speedup_sets_the_policys_own_knob(policy):
    for target in (1.0, 2.0, 3.0):
        _, run = patched(fake_pipeline(), lambda pipe: pipe("a disc"), policy=policy, target_speedup=target)
        (plan,) = run.report["generations"][0]["planned"]
        assert plan["speedup"] == pytest.approx(target, rel=0.1) and plan["target"] == target


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"policy": "teacache:thresh=1"}, ["'thresh'", "teacache_thresh, use_ret_steps, ckpt_dir"]),
        ({"policy": "teacache:teacache_thresh=much"}, ["teacache_thresh", "not a number"]),
        ({"policy": "teacache:teacache_thresh"}, ["NAME:key=value"]),
        ({"policy": "teacache:ckpt_dir=7B"}, ["1.3B, 14B, none"]),
        ({"policy": "teacache", "cache_threshold": 0.1}, ["no use for --cache-threshold"]),
        ({"policy": "taylorseer:max_order=3"}, ["2 at most"]),
        ({"policy": "taylorseer:interval=0"}, ["1 or more"]),
        ({"policy": "scope:interval=2"}, ["none of its own"]),
        ({"policy": "teacup:interval=2"}, ["teacache"]),
        ({"level": "attention"}, ["velocity"]),
    ],
)
def test_settings_that_cannot_be_used(settings, words):
    with pytest.raises(UsageError) as error:
        policies.create(Settings.resolve(settings, {}))
    assert all(word in str(error.value) for word in words), error.value


def test_settings_reach_a_child_process():
    settings = Settings.resolve({"policy": "teacache:teacache_thresh=0.1,use_ret_steps=1", "level": "velocity"}, {})
    assert Settings.resolve({}, settings.to_environ()) == settings


def test_teacache_takes_the_coefficients_of_the_models_size():
    found = {width: policies.create(Settings(policy="teacache"), Size(width, 30)) for width in (1536, 5120)}
    assert found[1536].coefficients[0] == 2.39676752e03 and found[5120].coefficients[0] == -5784.54975374
    chosen = policies.create(Settings(policy="teacache:ckpt_dir=1.3B"), Size(5120, 40))
    assert chosen.coefficients == found[1536].coefficients


def test_teacache_starts_anew_where_upstreams_counter_does():
    policy = policies.create(Settings(policy="teacache:ckpt_dir=none,teacache_thresh=9"))
    state, seen = policy.initial(), ""
    for i in range(20):
        state, decision = policy.step(state, Observation(0.1 if i else None, i == 0, 1, iteration=i, iterations=20))
        seen += decision.mode.value
    assert seen == "RCCCCCCCCC" * 2
    assert policy.step(0.0, Observation(float("nan"), False, 1, iteration=3, iterations=20))[1].mode is Mode.RECOMPUTE


def test_delta_dit_bypasses_rear_blocks_and_then_front_blocks():
    pipe = tiny_pipeline(num_layers=4)
    ran = []
    for k, block in enumerate(pipe.transformer.blocks):
        block.register_forward_pre_hook(lambda module, args, k=k: ran.append(k))
    longer = partial(generate, num_frames=97)  # an even number of iterations in either half
    expected = longer(pipe)
    ran.clear()
    made, run = patched(pipe, longer, policy="delta-dit:interval=2,blocks=3,b=0.5")
    seen, calls = modes(run), []
    for k in ran:  # a call of the DiT begins where the block's number does not rise
        if not calls or k <= calls[-1][-1]:
            calls.append([])
        calls[-1].append(k)
    whole, early, late = [0, 1, 2, 3], [0], [3]
    each = [whole if mode == "R" else early if i < len(seen) / 2 else late for i, mode in enumerate(seen)]
    assert seen == "RC" * 12 and calls == [call for call in each for _ in range(2)]
    assert 0 < (made - expected).norm() < 0.1 * expected.norm()
    (plan,) = run.report["generations"][0]["planned"]
    assert plan["speedup"] == pytest.approx(2 / 1.25)
    assert "25%" in run.report["generations"][0]["remarks"][0]


def test_delta_dit_of_all_blocks_is_reuse_of_the_whole_residual():
    """Two ways to the same thing: N = 2 from the start, order 0, at the residual level."""
    ours, first = patched(tiny_pipeline(), generate, policy="delta-dit:interval=2,blocks=2,b=0")
    same, second = patched(
        tiny_pipeline(), generate, policy="taylorseer:interval=2,max_order=0,warmup=1", level="residual"
    )
    assert modes(first) == modes(second) and torch.equal(ours, same)


FORK = "FlowCache4MAGI-1/inference/pipeline/cache"


def test_flowcache_decides_as_the_authors_code(upstream):
    """Their `ChunkWiseCache`, out of a clone of their fork, and our policy, on the same random changes of chunks."""
    import importlib.util
    import random
    import sys
    import types

    clone = upstream("FlowCache") / FORK
    pytest.importorskip("einops")
    package = types.ModuleType("flowcache_fork")
    package.__path__ = [str(clone)]
    sys.modules["flowcache_fork"] = package
    spec = importlib.util.spec_from_file_location("flowcache_fork.cachereuse", clone / "cachereuse.py")
    fork = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        spec.loader.exec_module(fork)
    finally:
        sys.dont_write_bytecode = before
        del sys.modules["flowcache_fork"]
    rng, steps, reused = random.Random(0), 60, 0
    cache = fork.ChunkWiseCache(rel_l1_thresh=0.1, warmup_steps=3)
    cache.set_total_steps(steps)
    policy = policies.create(
        Settings(policy="flowcache:rel_l1_thresh=0.1,warmup_steps=3"), Size(width=0, blocks=0, chunked=True)
    )
    states, features, done = {}, {}, dict.fromkeys(range(9), 0)
    for step in range(steps):
        chunks = range(max(step // 10 - 2, 0), step // 10 + 1)  # a window of three
        before, features = features, {k: torch.rand(64).double() + 1 for k in chunks}
        for k in set(before) & set(features):
            features[k] = before[k] * (1 + rng.random() * 0.06)
        cache.initialize_chunk_state(9)
        for k in chunks:
            theirs = False
            if k in before and step not in (0, steps - 1):  # as their forward asks
                theirs = cache.should_reuse(k, step, features, done, len(features), len(before))
            change = (((features[k] - before[k]).abs().mean()) / before[k].abs().mean()).item() if k in before else None
            seen = Observation(change, k not in before, 3, iteration=step, iterations=steps, age=done[k])
            states[k], decision = policy.step(states.get(k, policy.initial()), seen)
            assert (decision.mode is Mode.CACHE) == theirs, (step, k)
            reused += theirs
            done[k] += 1
        cache.store_previous_features(features)
        cache.increment_step()
    assert 30 < reused < 120


def test_flowcache_decides_chunk_by_chunk_on_magi():
    tiny = fake_magi()
    model = tiny.make_model(num_steps=32)
    with scope_patch.patched(model, policy="flowcache:rel_l1_thresh=0.2,warmup_steps=3", strict=True) as run:
        tiny.generate(model, prefix_frames=32)
    (segment,) = run.report["generations"][0]["segments"]
    assert run.report["signal"] == "expected change of the latents"
    apart = [slots for slots in segment["slots"] if {"R", "C"} <= set(slots)]
    assert apart and run.report["generations"][0]["forwards"]["skipped"] > 10
    # Younger chunks see older ones, so what is computed comes first (a clean one that is forwarded along before it).
    assert all("CR" not in slots for slots in apart)


def test_flowcache_forwards_all_frames_where_one_asks():
    for build, make in HOSTS.values():
        made, run = patched(build(), make, policy="flowcache:warmup_steps=3")
        forwards = run.report["generations"][0]["forwards"]
        assert 0 < forwards["skipped"] < 40 and run.report["signal"] == "time modulation (torch.fx)"
        assert made.isfinite().all()
