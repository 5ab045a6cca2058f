"""diffusers' three diffusion-forcing pipelines, unmodified, around a tiny DiT with random weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hosts import ALWAYS_PREDICT, embeddings, generate, tiny_pipeline, tiny_transformer

import scope_patch


def test_decisions_do_not_depend_on_the_batch():
    modes = []
    for batch in (1, 3):
        pipe = tiny_pipeline(inject_sample_info=False)
        with scope_patch.patched(pipe, cache_threshold=0.05, predict_threshold=0.4) as run:
            generate(pipe, batch=batch)
        assert run.report["signal"] == "time modulation (torch.fx)"
        modes.append(run.report["generations"][0]["segments"][0]["modes"])
    assert modes[0] == modes[1] and {"P", "R"} <= set(modes[0])


def test_a_callback_may_change_the_conditioning():
    """New embeddings in mid-loop have no history: their first forward is a real one."""
    pipe = tiny_pipeline()
    other = embeddings()["prompt_embeds"].flip(1)

    def callback(pipe, step, timestep, tensors):
        return {"prompt_embeds": other} if step == 14 else {}

    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True) as run:
        generate(pipe, callback_on_step_end=callback)
    generation = run.report["generations"][0]
    assert generation["segments"][0]["modes"][15] == "P" and generation["guards"]["branch"] == 1


def test_progress_bar_is_the_hosts(capsys):
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=False)
    with scope_patch.patched(pipe, **ALWAYS_PREDICT):
        generate(pipe)
    assert "18/18" in capsys.readouterr().err


def test_bf16_stays_bf16():
    pipe = tiny_pipeline(transformer=tiny_transformer().to(torch.bfloat16))
    dtypes = set()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True) as run:
        transformer = type(pipe.transformer)
        call = transformer.__call__

        def spy(self, *args, **kwargs):
            output = call(self, *args, **kwargs)
            dtypes.add(output[0].dtype)
            return output

        transformer.__call__ = spy
        try:
            generate(pipe)
        finally:
            transformer.__call__ = vars(transformer)["__call__"] and call
    assert run.report["generations"][0]["forwards"]["skipped"] > 0 and dtypes == {torch.bfloat16}


def offloaded(pipe):
    """What enable_model_cpu_offload does to the DiT, without an accelerator: a hook that replaces forward."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Hook(ModelHook):
        loads = 0

        def pre_forward(self, module, *args, **kwargs):
            self.loads += 1
            return args, kwargs

    hook = Hook()
    add_hook_to_module(pipe.transformer, hook)
    return hook


@pytest.mark.parametrize("first", ["hook", "patch"])
def test_offload_hooks_on_the_instance(first):
    """Hooks replace `forward` on the instance; whichever came first, skipped steps load nothing."""
    expected_pipe = tiny_pipeline()
    with scope_patch.patched(expected_pipe, **ALWAYS_PREDICT):
        expected = generate(expected_pipe)
    pipe = tiny_pipeline()
    if first == "hook":
        hook = offloaded(pipe)
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True) as run:
        if first == "patch":
            hook = offloaded(pipe)
        assert torch.equal(generate(pipe), expected)
    assert hook.loads == run.report["generations"][0]["forwards"]["run"]


def test_group_offload_and_layerwise_casting():
    pipe = tiny_pipeline()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    with scope_patch.patched(pipe, policy="never", strict=True):
        plain = generate(pipe)
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True) as run:
        made = generate(pipe)
    assert run.report["generations"][0]["forwards"]["skipped"] > 0
    assert (made - plain).norm() / plain.norm() < 0.5


def test_a_diffusers_cache_is_refused():
    from diffusers import FirstBlockCacheConfig

    pipe = tiny_pipeline()
    pipe.transformer.is_cache_enabled  # noqa: B018 - the property this rests on
    pipe.transformer._cache_config = FirstBlockCacheConfig(threshold=0.1)
    with scope_patch.patched(pipe, **ALWAYS_PREDICT) as run:
        generate(pipe)
    assert run.report["status"] == "not-applied" and "disable_cache" in run.report["reasons"][0]


def test_copies_and_pickles_of_a_patched_model_are_plain():
    pipe = tiny_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT):
        twin = copy.deepcopy(pipe.transformer)
        again = pickle.loads(pickle.dumps(pipe.transformer))
        intervals = pipe.generate_timestep_matrix(25, torch.arange(990, 0, -90), 25, 3, 0, 5)[3]
        assert type(copy.deepcopy(intervals)) is list
    for model in (twin, again):
        assert torch.equal(model.proj_out.weight, pipe.transformer.proj_out.weight)


def test_a_loop_of_the_users_own_is_left_alone():
    """It has the same DiT, but nothing of it is known to us."""
    from diffusers import UniPCMultistepScheduler

    transformer = tiny_transformer(inject_sample_info=False)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)

    def run():
        scheduler.set_timesteps(8)
        latents = torch.randn(1, 4, 5, 4, 4, generator=torch.Generator().manual_seed(0))
        for t in scheduler.timesteps:
            velocity = transformer(latents, t[None], embeddings()["prompt_embeds"], return_dict=False)[0]
            latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
        return latents

    expected = run()
    with scope_patch.patched(transformer, **ALWAYS_PREDICT) as record:
        assert torch.equal(run(), expected)
    assert record.report["generations"] == []


@pytest.mark.parametrize(
    ("how", "first"),
    [
        ("module.compile()", "patch"),
        ("compile_repeated_blocks", "patch"),
        ("torch.compile(module)", "patch"),
        ("torch.compile(module)", "compile"),
    ],
)
def test_compiled_dit(how, first):
    """The seam lies around the compiled region, whichever came first; the compiled code is the host's own."""
    torch._dynamo.reset()
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    def compile_it():
        if how == "module.compile()":
            pipe.transformer.compile(backend=backend)
        elif how == "compile_repeated_blocks":
            pipe.transformer.compile_repeated_blocks(backend=backend)
        else:
            pipe.transformer = torch.compile(pipe.transformer, backend=backend)

    forwards = torch.zeros(())  # a number would be guarded on, and every forward compiled anew

    def ran(module, args):
        forwards.add_(1)

    pipe = tiny_pipeline()
    pipe.transformer.patch_embedding.register_forward_pre_hook(ran)
    if first == "compile":
        compile_it()
        expected = generate(pipe, num_frames=17)
    handle = scope_patch.apply(pipe.transformer, **ALWAYS_PREDICT, strict=True)
    if first == "patch":
        compile_it()
    forwards.zero_()
    generate(pipe, num_frames=17)
    (generation,) = handle.report["generations"]
    assert compiled and generation["forwards"]["skipped"] > 0
    assert forwards == generation["forwards"]["run"]
    handle.remove()
    if first == "compile":
        with scope_patch.patched(pipe, policy="never", strict=True):
            assert torch.equal(generate(pipe, num_frames=17), expected)
    torch._dynamo.reset()


@pytest.mark.parametrize("causal", [True, False])
def test_latent_frames_are_left_out_where_that_is_exact_and_elsewhere_only_when_asked(causal):
    pipe = tiny_pipeline()
    if not causal:
        pipe.transformer._set_ar_attention = lambda size: None
    expected = generate(pipe)
    for selective in (None, True, False):
        with scope_patch.patched(pipe, cache_threshold=0, predict_threshold=0, selective=selective, strict=True) as run:
            made = generate(pipe)
        (generation,) = run.report["generations"]
        slots = generation["segments"][0]
        left_out = selective or (selective is None and causal)
        assert generation["forwards"]["skipped"] == 0
        assert (slots["slots_computed"] < slots["slots_baseline"]) == left_out
        assert torch.allclose(made, expected, atol=1e-4) == (causal or not left_out)
        assert bool(generation["remarks"]) == (left_out and not causal)
