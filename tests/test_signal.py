"""The sliced signal: bit-equal to what enters the first block, small, and without any module of the DiT."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hosts import embeddings, fake_pipeline, tiny_transformer

from scope_patch.patch.attach import bindings
from scope_patch.patch.signal import SignalError, slice_signal
from scope_patch.patch.velocity import ForwardCall


def diffusers_host(**options):
    model = tiny_transformer(**options)
    arguments = {
        "hidden_states": torch.randn(1, 4, 10, 8, 8),
        "timestep": torch.randint(0, 1000, (1, 10)),
        "encoder_hidden_states": embeddings()["prompt_embeds"],
        "enable_diffusion_forcing": True,
        "fps": [1],
        "attention_kwargs": {},
        "return_dict": False,
    }
    call = ForwardCall(arguments, arguments["hidden_states"], arguments["timestep"])
    return bindings()["skyreels-v2-diffusers"].host.dit, model, call


def fake_host():
    model = fake_pipeline().transformer
    arguments = {
        "x": torch.randn(1, 4, 10, 4, 4),
        "t": torch.randint(0, 1000, (1, 10)),
        "context": torch.randn(1, 3, 6),
        "fps": [1],
    }
    return bindings()["skyreels-v2"].host.dit, model, ForwardCall(arguments, arguments["x"], arguments["t"])


def captured(dit, model, call):
    """The modulation that really enters the first block, per token [B, 6, tokens, dim]."""
    kept = []
    name, position = dit.modulation
    handle = model.blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: kept.append(kwargs[name] if name in kwargs else args[position]), with_kwargs=True
    )
    try:
        model(**call.arguments)
    finally:
        handle.remove()
    return kept[0]


HOSTS = {
    "diffusers": diffusers_host,
    "diffusers, no fps": lambda: diffusers_host(inject_sample_info=False),
    "diffusers, block-causal": lambda: diffusers_host(num_frame_per_block=5),
    "fake official": fake_host,
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("width", [10, 5, 25])
def test_bit_equal_to_the_modulation_of_the_first_block(host, width):
    dit, model, call = HOSTS[host]()
    sliced = slice_signal(dit, model, call, width)
    made = sliced(call.timestep[0].double())
    assert made.shape == (10, made.shape[1])
    tokens = captured(dit, model, call)[:1]  # [1, 6, frames * tokens a frame, dim]
    per_slot = tokens.unflatten(2, (10, -1))[:, :, :, 0].transpose(1, 2).flatten(2)[0]
    if width == call.slots:
        assert torch.equal(made, per_slot)
    # Of another width, the matrix products round differently.
    assert torch.allclose(made, per_slot, rtol=1e-5, atol=1e-6)


def test_the_graph_is_small_and_reads_the_models_own_weights():
    dit, model, call = diffusers_host()
    sliced = slice_signal(dit, model, call, 10)
    operations = [node for node in sliced.graph.graph.nodes if node.op == "call_function"]
    assert len(operations) < 60 and len(sliced.weights) >= 6
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    assert {names[id(weight)].split(".")[0] for weight in sliced.weights} <= {
        *("condition_embedder", "fps_embedding", "fps_projection")
    }
    before = sliced(torch.tensor([500.0]))
    model.condition_embedder.time_proj.bias.data += 1
    assert torch.allclose(sliced(torch.tensor([500.0])), before + 1, atol=1e-5)


def test_no_hook_of_the_host_fires_and_nothing_of_it_changes():
    dit, model, call = diffusers_host()
    fired = []
    for module in model.modules():
        module.register_forward_hook(lambda *a: fired.append(a))
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    slice_signal(dit, model, call, 10)(torch.tensor([500.0, 1.0]))
    assert not fired
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys()
        assert all(vars(module)[key] is value for key, value in before[name].items())


def test_a_slice_knows_when_it_no_longer_fits():
    dit, model, call = diffusers_host()
    sliced = slice_signal(dit, model, call, 10)

    def fits(width):
        return sliced.fits(dit, model, call, width)

    assert fits(10) and fits(5) and not fits(11)
    call.arguments["fps"] = [0]
    assert not fits(10)
    call.arguments["fps"] = [1]
    model.condition_embedder.time_proj.weight = torch.nn.Parameter(model.condition_embedder.time_proj.weight.clone())
    assert not fits(10)


def test_weights_that_are_not_in_memory_are_an_error_with_the_reason():
    dit, model, call = diffusers_host()
    with pytest.raises(SignalError, match="not in memory"):
        slice_signal(dit, model.to("meta"), call, 10)


def test_falls_back_to_the_timestep_and_says_so(monkeypatch, caplog):
    from hosts import generate, tiny_pipeline

    import scope_patch
    from scope_patch.patch import planning

    def refuse(*args, **more):
        raise SignalError("the weights are on the moon")

    monkeypatch.setattr(planning, "slice_signal", refuse)
    pipe = tiny_pipeline()
    with scope_patch.patched(pipe, cache_threshold=0.0, predict_threshold=1e9, strict=True) as run:
        generate(pipe)
    assert run.report["signal"] == "timestep" and "on the moon" in caplog.text
    assert run.report["generations"][0]["forwards"]["skipped"] > 0


def test_where_the_embedding_is_not_said_nothing_of_the_hosts_own_runs_under_the_tracer():
    """Its blocks would, with all their hooks."""
    dit, model, call = diffusers_host()
    seen = []
    model.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(SignalError, match="does not say where its time embedding is"):
        slice_signal(replace(dit, embedding=""), model, call, 10, of="embedding")
    assert seen == []
