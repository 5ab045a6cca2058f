"""Models that other libraries have changed before we patch them: adapters, offload, casts, quantised weights."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hosts import ALWAYS_PREDICT, CountForwards, generate, tiny_pipeline
from torch import nn

import scope_patch
from scope_patch.patch import planning

SHORT = {"num_frames": 45, "causal_block_size": 4, "num_inference_steps": 6}
THRESHOLDS = {"cache_threshold": 0.05, "predict_threshold": 0.4}
"""They decide from the traced time modulation."""


def lora(pipe, name="first", seed=1, targets=("to_q", "time_proj", "linear_1")):
    """An adapter that matters, also in the time embedding."""
    peft = pytest.importorskip("peft", reason="of the extra `test`")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=2, lora_alpha=16, target_modules=list(targets), init_lora_weights=False)
        pipe.transformer.add_adapter(config, adapter_name=name)


def loaded(pipe, folder):
    """The same by the pipeline's own loader, from a file."""
    pytest.importorskip("peft", reason="of the extra `test`")
    from peft import get_peft_model_state_dict

    donor = tiny_pipeline()
    lora(donor)
    state = get_peft_model_state_dict(donor.transformer, adapter_name="first")
    type(donor).save_lora_weights(folder, transformer_lora_layers=state)
    pipe.load_lora_weights(folder)


def fused(pipe):
    lora(pipe)
    pipe.transformer.fuse_lora()


def unfused(pipe):
    fused(pipe)
    pipe.transformer.unfuse_lora()


class Int8Linear(nn.Module):
    """Weights as int8 with a scale a row, widened when they are used."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("int8", (linear.weight / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x):
        return nn.functional.linear(x, self.int8.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def quantised(pipe):
    for block in pipe.transformer.blocks:
        for name, module in list(block.named_modules()):
            if isinstance(module, nn.Linear):
                path, _, last = name.rpartition(".")
                setattr(block.get_submodule(path), last, Int8Linear(module))


def torchao(pipe):
    quantize = pytest.importorskip("torchao.quantization", reason="optional: torchao")
    quantize.quantize_(pipe.transformer.blocks, quantize.Int8WeightOnlyConfig())


def cpu_offloaded(pipe):
    """accelerate's hooks: weights are on `meta` between the forwards of their modules."""
    from accelerate import cpu_offload

    cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))


def group_offloaded(pipe, **more):
    pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level", **more
    )


def layerwise(pipe):
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


HOW = {
    "lora": lambda pipe, folder: lora(pipe),
    "lora from a file": loaded,
    "lora, fused": lambda pipe, folder: fused(pipe),
    "lora, fused and unfused": lambda pipe, folder: unfused(pipe),
    "int8 weights": lambda pipe, folder: quantised(pipe),
    "torchao": lambda pipe, folder: torchao(pipe),
    "cpu offload": lambda pipe, folder: cpu_offloaded(pipe),
    "group offload": lambda pipe, folder: group_offloaded(pipe),
    "group offload to disk": lambda pipe, folder: group_offloaded(pipe, offload_to_disk_path=str(folder)),
    "layerwise casting to float8": lambda pipe, folder: layerwise(pipe),
}
SIGNALS = {"cpu offload": "timestep", "layerwise casting to float8": "timestep", "group offload to disk": "timestep"}
"""Where the weights are no usable numbers between forwards, the signal is the timestep itself."""


FEW = ("lora", "int8 weights", "cpu offload", "group offload to disk", "layerwise casting to float8")


@pytest.mark.parametrize("how", [pytest.param(how, marks=() if how in FEW else pytest.mark.long) for how in HOW])
def test_never_is_bit_identical_and_an_accelerated_report_equals_what_ran(how, tmp_path):
    pipe = tiny_pipeline()
    plain = generate(pipe, **SHORT)
    HOW[how](pipe, tmp_path)
    expected = generate(pipe, **SHORT)
    assert torch.allclose(plain, expected, atol=1e-5) == (
        how in ("cpu offload", "group offload", "group offload to disk")
    )
    with scope_patch.patched(pipe, policy="never", strict=True):
        assert torch.equal(generate(pipe, **SHORT), expected)
    count = CountForwards(pipe.transformer)
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True) as run:
        made = generate(pipe, **SHORT)
    (generation,) = run.report["generations"]
    assert generation["forwards"]["run"] == count.forwards and generation["forwards"]["skipped"] > 0
    assert sum(segment["slots_computed"] for segment in generation["segments"]) == count.frames
    assert made.isfinite().all() and set(generation["guards"]) <= {"stability"}
    assert generation["signal"] == SIGNALS.get(how, "time modulation (torch.fx)")
    count.remove()
    assert torch.equal(generate(pipe, **SHORT), expected), "nothing of ours is left"


def decisions(pipe):
    with scope_patch.patched(pipe, **THRESHOLDS, strict=True) as run:
        generate(pipe, **SHORT, guidance_scale=1.0)
    (generation,) = run.report["generations"]
    assert generation["signal"] == "time modulation (torch.fx)"
    return generation["segments"][0]["modes"]


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_the_signal_is_that_of_the_adapters_of_the_day():
    """The same pipeline through all states of its adapters, each against a signal that is traced anew."""
    steps = {
        "none": lambda pipe: None,
        "injected": lora,
        "a second one": lambda pipe: lora(pipe, "second", seed=2),
        "the first again": lambda pipe: pipe.transformer.set_adapters(["first"], [1.0]),
        "weaker": lambda pipe: pipe.transformer.set_adapters(["first"], [0.25]),
        "fused": lambda pipe: pipe.transformer.fuse_lora(),
        "unfused": lambda pipe: pipe.transformer.unfuse_lora(),
        "off": lambda pipe: pipe.transformer.disable_lora(),
        "removed": lambda pipe: pipe.transformer.unload_lora(),
    }
    pipe, found, fresh = tiny_pipeline(), {}, {}
    for name, step in steps.items():
        step(pipe)
        found[name] = decisions(pipe)
        planning._slices.clear()
        fresh[name] = decisions(pipe)
    assert found == fresh
    assert found["none"] != found["injected"], "the adapter has a say, or this test has none"
    assert found["none"] == found["off"] == found["removed"]


def copies(model):
    def saved(model):
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=False)

    return [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), saved(model)]


def test_copies_made_while_a_generation_is_under_way_are_plain():
    """A model is copied in a callback; the copies do unpatched what the model did before, and can be patched."""
    pipe, made = tiny_pipeline(), []
    plain = generate(pipe, **SHORT)
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True):
        expected = generate(pipe, **SHORT)

    def callback(pipe, step, timestep, tensors):
        if step == 7:
            made.extend(copies(pipe.transformer))
            made.append({name: copy.deepcopy(part) for name, part in pipe.components.items()}["transformer"])
        return {}

    with scope_patch.patched(pipe, **ALWAYS_PREDICT, strict=True):
        assert torch.equal(generate(pipe, callback_on_step_end=callback, **SHORT), expected)
        for model in made:  # the patch is of this pipeline: another one with a copy is none of it
            assert torch.equal(generate(tiny_pipeline(transformer=model), **SHORT), plain)
    assert len(made) == 4
    for model in made:
        twin = tiny_pipeline(transformer=model)
        with scope_patch.patched(twin, **ALWAYS_PREDICT, strict=True) as run:
            assert torch.equal(generate(twin, **SHORT), expected)
        assert run.report["status"] == "applied"
        assert vars(model).keys() == vars(pipe.transformer).keys()


def test_copies_of_a_model_that_was_transformed_and_patched():
    pipe = tiny_pipeline()
    quantised(pipe)
    expected = generate(pipe, **SHORT)
    with scope_patch.patched(pipe.transformer, policy="never", strict=True):
        made = copies(pipe.transformer)
    for model in made:
        assert torch.equal(generate(tiny_pipeline(transformer=model), **SHORT), expected)
