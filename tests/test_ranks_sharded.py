"""Ranks that share a DiT's weights in torch's own ways skip alike, or none does; and how sharing is seen at all."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import threading
import types
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hosts import ALWAYS_PREDICT, fake_pipeline
from ranks_sharded import HOSTS, make_video
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

import scope_patch
from scope_patch.errors import NotApplied
from scope_patch.patch.agreement import Agreements
from scope_patch.patch.guard import unwrap
from scope_patch.patch.planning import Planning
from scope_patch.patch.sharing import Sharing, sharing

SCRIPT = Path(__file__).with_name("ranks_sharded.py")
JOBS = {
    "fsdp2": (
        "unpatched",
        "plain",
        "absent 1",
        "other settings",
        "fails Session serve 14 0",
        "fails FrozenKeys note 3 1",
        "residual",
    ),
    "fsdp1": ("unpatched", "plain", "fails Session serve 14 1", "residual"),
    "fsdp1 flat": ("unpatched", "plain"),
    "tensor": ("unpatched", "parted", "plain", "residual"),
    "alone": ("uneven",),
}
REFUSED = ("absent", "other", "parted")
"""Cases in which nothing may be left out."""


@pytest.fixture(scope="module")
def found(run_python, tmp_path_factory):
    """What each of two ranks saw: host -> case -> ..."""
    out = tmp_path_factory.mktemp("ranks")
    jobs = [f"{name}:{','.join(cases)}" for name, cases in JOBS.items()]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = run_python(*launcher, str(SCRIPT), str(out), *jobs, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", [name for name in JOBS if name != "alone"])
def test_ranks_that_share_weights_skip_alike_or_not_at_all(name, found):
    unpatched = found[0][name]["unpatched"]
    for case in JOBS[name]:
        one, other = (rank[name][case] for rank in found)
        assert one["latents"] == other["latents"] and one["forwards"] == other["forwards"], case
        for rank in (one, other):
            assert max(rank["seconds"], rank.get("again", rank)["seconds"]) < 30, "gloo would wait for 40"
            check(case, rank, unpatched, refused=case.startswith(REFUSED) or (name, case) == ("tensor", "residual"))


def check(case, rank, unpatched, refused):
    """What one rank saw of a case."""
    if refused:
        exact = 1e-6 if case == "parted" else 0  # latent frames that had not begun were left out until then
        assert rank["latents"] == pytest.approx(unpatched["latents"], rel=exact, abs=0), case
        assert rank["forwards"] == unpatched["forwards"] and (rank["reasons"] or rank["reported"] is None), case
    elif "FrozenKeys" in case:  # it failed before anything was skipped: all forwards ran, those after it whole
        assert rank["latents"] == pytest.approx(unpatched["latents"], rel=1e-5) and rank["reasons"], case
        assert rank["forwards"] > unpatched["forwards"] and rank["reported"]["skipped"] == 0, case
    elif case != "unpatched":
        assert rank["latents"] != pytest.approx(unpatched["latents"], rel=1e-3), "something was left out"
        assert (rank["forwards"] < unpatched["forwards"]) == (case != "residual"), case
        assert bool(rank["reasons"]) == case.startswith("fails"), case
        assert rank["forwards"] == rank["reported"]["run"] or rank["reasons"] or case == "residual", case
    if "again" in rank:  # the generation after one that went wrong
        assert rank["again"]["latents"] == unpatched["latents"]


def test_what_they_make_is_what_one_process_makes(found):
    for names in (("fsdp2", "fsdp1", "tensor"), ("fsdp1 flat",)):
        pipe = HOSTS[names[0]][0]()
        for case, policy in (("unpatched", {"policy": "never"}), ("plain", {})):
            with scope_patch.patched(pipe, **ALWAYS_PREDICT, **policy, strict=True) as run:
                made = make_video(pipe).double()
            (segment,) = run.report["generations"][0]["segments"]
            sums = [float(made.sum()), float(made.square().sum()), float(made.abs().sum())]
            for told in (found[0][name][case] for name in names):
                assert told["latents"] == pytest.approx(sums, rel=1e-5), case
                assert case == "unpatched" or told["modes"] == [segment["modes"]]


def test_ranks_that_share_weights_alone_keep_keys(found):
    for rank in found:
        assert rank["fsdp2"]["plain"]["frozen"] == rank["fsdp1"]["plain"]["frozen"] > 0
        assert rank["tensor"]["plain"]["frozen"] == rank["fsdp2"]["residual"]["frozen"] == 0
        assert any("tokens may be split" in remark for remark in rank["tensor"]["plain"]["remarks"])
        assert rank["fsdp2"]["fails FrozenKeys note 3 1"]["frozen"] > 0, "it failed where there was something to lose"


@pytest.mark.parametrize("name", ["fsdp2", "fsdp1"])
def test_a_skipped_forward_gathers_nothing(name, found):
    """We stand in front of FSDP's own hooks: what is not called is not put together."""
    unpatched, patched = (found[0][name][case] for case in ("unpatched", "plain"))
    assert unpatched["collectives"] == 16 * 2 + 1, "two blocks a forward, and once the rest"
    assert patched["collectives"] == patched["forwards"] * 2 < 32


def test_ranks_that_have_a_dit_each_do_not_wait_for_one_another(found):
    assert [len(rank["alone"]["uneven"]) for rank in found] == [1, 2]
    for told in (each for rank in found for each in rank["alone"]["uneven"]):
        assert not told["reasons"] and told["forwards"] < 16


# How sharing is seen: this process is rank 0 of a job of four, of which the others are not there.


def test_without_a_job_nothing_is_shared_and_nothing_is_asked():
    assert of(replaced("__main__")) == Sharing()
    with pytest.raises(NotApplied, match="ranks 0, 1 share the model, and the store of their process group"):
        Agreements("a-model").of((0, 1), 1.0)


@pytest.fixture(scope="module")
def job():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    dist.destroy_process_group()


def network():
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))


def of(change):
    """The sharing of a small network after `change`, which may return what wraps it."""
    model = network()
    return sharing(change(model) or model)


def fsdp2(model, mesh, **options):
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=mesh, **options)


def fsdp1(model, orig=False, **options):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, use_orig_params=orig, device_id=torch.device("cpu"), **options)


def unsharded(model):
    mesh = init_device_mesh("cpu", (4,))
    fsdp2(model, mesh, reshard_after_forward=False)
    model(torch.zeros(1, 8))
    assert not any(hasattr(parameter, "placements") for parameter in model.parameters())


def tensor_parallel(model, mesh, *layers):
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    parallelize_module(model, mesh, {layer: ColwiseParallel() for layer in layers or "01"})


def both(model):
    mesh = grid("dp", "tp")
    tensor_parallel(model, mesh["tp"])
    fsdp2(model, mesh["dp"])


def crossed(model):
    mesh = grid("one", "other")
    tensor_parallel(model, mesh["one"], "0")
    tensor_parallel(model, mesh["other"], "1")


def marked(model, group=None):
    """As DeepSpeed leaves parameters between forwards."""
    for number, parameter in enumerate(model.parameters()):
        parameter.ds_id, parameter.ds_tensor, parameter.ds_status = number, parameter.data, "NOT_AVAILABLE"
        parameter.data = torch.empty(0)
        if group is not None:
            parameter.ds_process_group = group


def written_in(module):
    """A function whose code stands in that module."""
    return types.FunctionType((lambda self, x: x).__code__, {"__name__": module})


def replaced(module, of=lambda forward, model: types.MethodType(forward, model)):
    """The instance's forward is one that stands in that module."""

    def change(model):
        model[0].forward = of(written_in(module), model[0])

    return change


def as_accelerate_does(forward, model):
    return functools.update_wrapper(functools.partial(forward, model), model.forward)


def hooked(module):
    return lambda model: model.register_forward_pre_hook(written_in(module)) and None


def holding(what):
    return lambda model: setattr(model[0], "cp_group", what())


def made_of(module, base=nn.Linear):
    """A layer's class is one of that package."""

    def change(model):
        model[0].__class__ = type("Layer", (base,), {"__module__": module})

    return change


def of_kind(module):
    """A parameter is of a tensor class of that package."""

    def change(model):
        kind = type("Numbers", (torch.Tensor,), {"__module__": module})
        model[0].weight = nn.Parameter(model[0].weight.data.as_subclass(kind))
        assert type(model[0].weight) is kind

    return change


def coded(where, *groups):
    """Its class uses a module of its package that keeps groups: itself, by name, or by a function of it."""

    def change(model):
        network, parallel = (types.ModuleType(f"some_host.{name}") for name in ("network", "parallel"))
        made = written_in("some_host.parallel")
        kept = {"itself": vars(network), "a module": vars(parallel), "a function": made.__globals__}[where]
        kept.update({str(ranks): dist.new_group(list(ranks)) for ranks in groups})
        vars(network).update({"a module": {"parallel": parallel}, "a function": {"made": made}}.get(where, {}))
        sys.modules["some_host.network"] = network
        made_of("some_host.network")(model)

    return change


def freed(model):
    model[0].weight.untyped_storage().resize_(0)


def placed(**attributes):
    """diffusers' parallel configuration."""
    config = types.SimpleNamespace(**attributes)
    return lambda model: setattr(model, "_parallel_config", types.SimpleNamespace(context_parallel_config=config))


def grid(*names):
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=names)


def data_parallel(model, buffers):
    if buffers:
        model.register_buffer("freqs", torch.zeros(2))
    return nn.parallel.DistributedDataParallel(model, init_sync=False)


def hybrid():
    from torch.distributed.fsdp import ShardingStrategy

    return {"sharding_strategy": ShardingStrategy.HYBRID_SHARD, "device_mesh": grid("replicas", "shards")}


def whole():
    from torch.distributed.fsdp import ShardingStrategy

    return {"sharding_strategy": ShardingStrategy.NO_SHARD}


ALL, PAIR = (0, 1, 2, 3), (0, 1)
WEIGHTS = {
    "FSDP2": (lambda model: fsdp2(model, init_device_mesh("cpu", (4,))), ALL),
    "FSDP2, whole between forwards": (unsharded, ALL),
    "FSDP2, replicas": (lambda model: fsdp2(model, grid("replicas", "shards")), PAIR),
    "FSDP2, a mesh of one": (lambda model: fsdp2(model, DeviceMesh("cpu", [0])), ()),
    "FSDP1": (fsdp1, ALL),
    "FSDP1, original parameters": (lambda model: fsdp1(model, orig=True), ALL),
    "FSDP1, of a submodule": (lambda model: model.__setitem__(0, fsdp1(model[0])), ALL),
    "FSDP1, replicas": (lambda model: fsdp1(model, **hybrid()), PAIR),
    "FSDP1, whole": (lambda model: fsdp1(model, **whole()), ()),
    "ZeRO-3": (marked, ALL),
    "ZeRO-3 with its group": (lambda model: marked(model, dist.new_group([0, 1])), PAIR),
}
"""name -> (what is done to a network, the ranks that share it then): every rank has all tokens."""
TOKENS = {
    "tensor parallel": (lambda model: tensor_parallel(model, init_device_mesh("cpu", (4,))), ALL),
    "tensor parallel, replicas": (lambda model: tensor_parallel(model, grid("dp", "tp")["tp"]), PAIR),
    "tensor parallel and FSDP2": (both, ALL),
    "layers by meshes that cross": (crossed, ALL),
    "DDP with buffers": (lambda model: data_parallel(model, buffers=True), ALL),
    "a group in a module": (holding(lambda: dist.new_group([0, 1])), PAIR),
    "a mesh in a module": (holding(lambda: grid("dp", "cp")["cp"]), PAIR),
    "forward of the script": (replaced("__main__"), ALL),
    "forward of the host's other file (use_usp)": (replaced("host.distributed.xdit_context_parallel"), ALL),
    "forward of an engine, under accelerate's name": (replaced("para_attn.x", as_accelerate_does), ALL),
    "forward that accelerate put aside": (lambda model: setattr(model, "_old_forward", written_in("__main__")), ALL),
    "an engine's hook": (hooked("deepspeed.runtime.zero"), ALL),
    "an engine's layer": (made_of("xfuser.layers"), ALL),
    "numbers of a kind nobody knows": (of_kind("somebody.sharded"), ALL),
    "numbers that were taken away": (freed, ALL),
    "a group that its code keeps": (coded("itself", (0, 1)), PAIR),
    "a group in a module that its code uses": (coded("a module", (0, 1)), PAIR),
    "a group behind a function that its code uses": (coded("a function", (0, 1)), PAIR),
    "groups of its code that cross": (coded("a module", (0, 1), (0, 2)), ALL),
    "diffusers, a mesh": (lambda model: placed(_mesh=grid("ring", "ulysses"))(model), ALL),
    "diffusers, a part of a mesh": (lambda model: placed(_flattened_mesh=grid("dp", "cp")["cp"])(model), PAIR),
    "diffusers, no mesh that we find": (placed(), ALL),
}
"""The same, of ranks that may have a part of the tokens."""
ALONE = {
    "nothing": lambda model: None,
    "DDP without buffers": lambda model: data_parallel(model, buffers=False),
    "accelerate's hooks": replaced("accelerate.hooks", as_accelerate_does),
    "diffusers' hooks": replaced("diffusers.hooks.hooks", as_accelerate_does),
    "the class's own forward, bound anew": replaced("torch.nn.modules.linear"),
    "hooks of the script": hooked("__main__"),
    "quantised numbers": of_kind("torchao.dtypes"),
    "checkpointed activations": made_of("torch.distributed.algorithms._checkpoint.checkpoint_wrapper"),
    "a compiled forward": lambda model: setattr(model[0], "forward", torch.compile(model[0].forward, backend="eager")),
    "weights on disk": lambda model: model.to("meta") and None,
    "a group of one": holding(lambda: dist.new_group([0])),
    "a group of one that its code keeps": coded("a module", (0,)),
}
"""What is found where each rank has its own, in a job of several."""


@pytest.mark.filterwarnings("ignore:The `NO_SHARD` sharding strategy:FutureWarning")
@pytest.mark.parametrize(("name", "tokens"), [*((name, False) for name in WEIGHTS), *((name, True) for name in TOKENS)])
def test_who_shares_it_is_seen(job, name, tokens):
    change, ranks = (TOKENS if tokens else WEIGHTS)[name]
    told = of(change)
    assert told.ranks == ranks and told.tokens == tokens and bool(told.why) == bool(ranks)
    if not tokens:
        assert told.scattered and told.uncounted == ("FSDP2" not in name)


@pytest.fixture(autouse=True)
def no_code_is_left():
    yield
    sys.modules.pop("some_host.network", None)


@pytest.mark.parametrize("name", ALONE)
def test_a_dit_of_its_own_is_nobody_elses(job, name):
    assert of(ALONE[name]) == Sharing()


def test_ranks_that_the_host_names_come_on_top(job):
    assert sharing(network(), (0, 2)).ranks == (0, 2) and sharing(network(), (0,)) == Sharing()
    model = network()
    coded("itself", (0, 1))(model)
    assert sharing(model, (0, 2)).ranks == (0, 2), "it says so itself; nothing is guessed"
    model = network()
    fsdp2(model, grid("replicas", "shards"))
    assert sharing(model, (0, 2)).ranks == ALL, "pipeline stages of shards: the groups cross"
    assert sharing(model, ALL).ranks == ALL


def test_xfuser_says_which_ranks_where_nothing_else_does(job, monkeypatch):
    fake = types.SimpleNamespace(
        model_parallel_is_initialized=lambda: True,
        get_sp_group=lambda: types.SimpleNamespace(ranks=[0, 1]),
        get_data_parallel_world_size=lambda: 2,
    )
    monkeypatch.setitem(sys.modules, "xfuser.core.distributed", fake)
    assert of(replaced("host.distributed.xdit_context_parallel")).ranks == PAIR
    fake.get_data_parallel_world_size = lambda: 1  # something else beside it: guidance, stages
    assert of(replaced("host.distributed.xdit_context_parallel")).ranks == ALL
    assert of(ALONE["nothing"]) == Sharing()


def test_parts_are_counted_as_the_whole_or_not_at_all(job):
    """FLOPs by parameters, where the host has no cost model of its own."""

    def work(change):
        model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])})
        model.dim = 8
        told = sharing(change(model["blocks"][0]) or model)
        host = types.SimpleNamespace(
            cost=None, moving=False, name="a-model", dit=types.SimpleNamespace(blocks="blocks")
        )
        asked = types.SimpleNamespace(host=host, model=model, _sharing=told)
        call = types.SimpleNamespace(latents=torch.zeros(1, 4, 5, 4, 4))
        counted, unit = Planning.work(asked, call, None, 0)
        return counted(0, (0, 5)), unit

    whole = work(lambda block: None)
    assert whole[1] == "flops" and work(lambda block: fsdp2(block, init_device_mesh("cpu", (4,)))) == whole
    assert work(marked) == (5.0, "latent frames")
    assert work(lambda block: fsdp1(block)) == (5.0, "latent frames")


def test_a_host_that_raises_on_one_rank_does_not_keep_the_others_waiting(monkeypatch):
    """Ranks are threads here. The others go on to where the host itself waits for that rank."""
    store, seconds = dist.HashStore(), 60
    monkeypatch.setattr("scope_patch.patch.agreement._default_store", lambda: store)
    monkeypatch.setattr("scope_patch.patch.generation.sharing", lambda *_: Sharing(PAIR, "as a test says"))
    pipes = [fake_pipeline(), fake_pipeline()]

    def generate(rank):
        with contextlib.suppress(RuntimeError):
            pipes[rank]("a disc")

    def generate_both(*fail):
        for pipe, at in zip(pipes, fail, strict=True):
            pipe.transformer.fail_at = None if at is None else pipe.transformer.calls + at
        threads = [threading.Thread(target=generate, args=(rank,), daemon=True) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=seconds / 2)
        assert not any(thread.is_alive() for thread in threads)
        return run.report["generations"][-1]

    options = {**ALWAYS_PREDICT, "rank_timeout": seconds}
    with scope_patch.patched(pipes[0], **options) as run, scope_patch.patched(pipes[1], **options):
        assert not generate_both(15, 15)["finished"]
        told = generate_both(None, None)
        assert not told["reasons"] and told["forwards"]["skipped"], "all raised: that was no refusal"
        told = generate_both(None, 15)
        assert "the 2 ranks that share the model (as a test says) did not agree" in told["reasons"][0]
        assert told["forwards"]["skipped"] and told["finished"]


def test_wrappers_are_looked_through(job):
    model = network()
    assert unwrap(fsdp1(model)) is model
    model = network()
    assert unwrap(torch.compile(data_parallel(model, buffers=False), backend="eager")) is model
    assert unwrap(model) is model and unwrap(nn.ModuleDict({"module": model})) is model
    assert unwrap(nn.ModuleDict({"module": model, "other": model}))["other"] is model
