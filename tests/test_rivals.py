"""Rivals behind the policy seam, against other people's implementations and on their own rules."""

from __future__ import annotations

import pytest
import torch
from hosts import CountForwards, fake_magi, fake_pipeline, generate, tiny_pipeline

import scope_patch
from scope_patch.errors import NotApplied, UsageError
from scope_patch.method import policies
from scope_patch.method.decision import Mode, Observation
from scope_patch.method.policies.traits import Size
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
    from scope_patch.patch import standin

    pipe = tiny_pipeline()
    expected = generate(pipe)
    forward = standin.StandIn.forward

    def other_shape(self, hidden, *args, **kwargs):
        self.added = None if self.added is None else self.added[:, 1:]
        return forward(self, hidden, *args, **kwargs)

    monkeypatch.setattr(standin.StandIn, "forward", other_shape)
    made, run = patched(pipe, generate, policy="taylorseer", level="residual")
    assert torch.equal(made, expected)
    assert run.report["generations"][0]["forwards"] == {"baseline": 48, "run": 48, "skipped": 0}


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
