"""Several ranks that share one DiT; a script for torchrun, started by tests/test_ranks.py.

    torchrun ... ranks.py OUT HOST CASE...     one JSON file a rank: case -> what it saw

Every forward has collectives, as sequence parallelism has: a rank that skips alone hangs the job, and one that forwards
other latent frames than the rest gets another result or an error.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import types
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from hosts import ALWAYS_PREDICT, fake_magi, fake_pipeline, generate, tiny_pipeline, tiny_transformer

import scope_patch

PREDICT = {**ALWAYS_PREDICT, "rank_timeout": 5.0}


def gathered(forward, axis):
    """A forward after which every rank has a share of the rows from itself, and the others' shares from them."""

    def shared(self, *args, **kwargs):
        whole = forward(self, *args, **kwargs)
        first = whole[0] if isinstance(whole, tuple) else whole
        own = first.chunk(dist.get_world_size(), dim=axis)[dist.get_rank()].contiguous()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        joined = torch.cat(parts, dim=axis)
        return (joined, *whole[1:]) if isinstance(whole, tuple) else joined

    return shared


def counted(module):
    """A function that says how often the module was called."""
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return lambda: len(calls)


class SkyReels:
    """The fake official pipeline under a stand-in for `use_usp`: the instance's forward is another."""

    def __init__(self):
        self.pipe = self.model = fake_pipeline()
        self.pipe.sp_size = dist.get_world_size()
        transformer = self.pipe.transformer
        transformer.forward = types.MethodType(gathered(type(transformer).forward, axis=3), transformer)
        self.forwards = lambda: transformer.calls

    def generate(self):
        torch.manual_seed(7)
        return self.pipe("a disc")


class Diffusers:
    """diffusers' own context parallelism: Ulysses, over a gloo mesh."""

    def __init__(self):
        from diffusers import ContextParallelConfig
        from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput

        transformer = tiny_transformer(num_attention_heads=4)

        def split(axis, dims, output=False):
            return ContextParallelInput(split_dim=axis, expected_dims=dims, split_output=output)

        plan = {
            "rope": {0: split(1, 4, True), 1: split(1, 4, True)},
            "blocks.0": {"hidden_states": split(1, 3)},
            "blocks.*": {"temb": split(2, 4)},
            "norm_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
        }
        if dist.get_world_size() > 1:
            degree = ContextParallelConfig(ulysses_degree=dist.get_world_size())
            with mock.patch("torch.accelerator.device_count", return_value=1):  # it counts GPUs, and divides by them
                transformer.enable_parallelism(config=degree, cp_plan=plan)
        self.pipe = self.model = tiny_pipeline(transformer=transformer)
        self.forwards = counted(transformer.patch_embedding)

    def generate(self):
        return generate(self.pipe)


class Magi:
    """The fake of the official MAGI-1, context parallel: every forward gathers."""

    def __init__(self):
        self.tiny = fake_magi()
        from inference.infra.distributed import parallel_state
        from inference.model.dit.dit_model import VideoDiTModel

        parallel_state.CP_WORLD_SIZE = dist.get_world_size()
        parallel_state.CP_GROUP = dist.group.WORLD
        parallel_state.PP_GROUP, _ = dist.new_subgroups(group_size=1)
        self.model = self.tiny.make_model()
        self.count = 0
        network = VideoDiTModel.forward

        def counted(model, *args, **kwargs):
            self.count += 1
            return gathered(network, axis=3)(model, *args, **kwargs)

        VideoDiTModel.forward = counted
        self.forwards = lambda: self.count

    def generate(self):
        return self.tiny.generate(self.model)


class Official:
    """The unmodified official SkyReels-V2 pipeline, with the same stand-in for `use_usp` as its fake."""

    def __init__(self):
        import official_skyreels

        official_skyreels.torch = torch
        self.official = official_skyreels
        upstream = official_skyreels.import_upstream(os.environ["SKYREELS"])
        self.pipe = self.model = official_skyreels.build(upstream)
        self.pipe.sp_size = dist.get_world_size()
        transformer = self.pipe.transformer
        transformer.forward = types.MethodType(gathered(type(transformer).forward, axis=3), transformer)
        self.forwards = counted(transformer.patch_embedding)

    def generate(self):
        return self.official.generate(self.pipe)


HOSTS = {"skyreels": SkyReels, "diffusers": Diffusers, "magi": Magi, "official": Official}


class Warnings(logging.Handler):
    """What scope_patch warned of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.told = []
        logging.getLogger("scope_patch").addHandler(self)

    def emit(self, record):
        self.told.append(record.getMessage())


def seen(host, warnings, run=None):
    """One generation: what came out, what ran, what was told."""
    before, told, begun = host.forwards(), len(warnings.told), time.monotonic()
    latents = host.generate().double()
    generation = None if run is None or not run.report["generations"] else run.report["generations"][-1]
    return {
        "latents": [float(latents.sum()), float(latents.square().sum()), float(latents.abs().sum())],
        "forwards": host.forwards() - before,
        "seconds": time.monotonic() - begun,
        "modes": None if generation is None else [segment["modes"] for segment in generation["segments"]],
        "reported": None if generation is None else generation["forwards"],
        "reasons": None if generation is None else generation["reasons"],
        "remarks": None if generation is None else generation["remarks"],
        "frozen": None if generation is None else generation["frozen_bytes_peak"],
        "warnings": warnings.told[told:],
    }


def failing(owner, name, at):
    """Let a method of ours raise at its call number `at`. Returns what undoes it."""
    method, calls = getattr(owner, name), iter(range(1, 10**6))

    def wrapper(*args, **kwargs):
        if next(calls) == at:
            raise ValueError("ours, on this rank only")
        return method(*args, **kwargs)

    setattr(owner, name, wrapper)
    return lambda: setattr(owner, name, method)


def run_case(host, case, warnings):
    """See tests/test_ranks.py for what the cases are."""
    from scope_patch.patch import bind, frozen, session

    rank = dist.get_rank()
    name, _, detail = case.partition(" ")
    if name == "unpatched":
        return seen(host, warnings)
    if name == "plain":
        more = {"verify": {"verify": 1}}.get(detail, {})
        with scope_patch.patched(host.model, **PREDICT, **more) as run:
            return seen(host, warnings, run)
    if name == "absent" and rank == int(detail):
        return {**seen(host, warnings), "again": seen(host, warnings)}
    if name == "absent":
        with scope_patch.patched(host.model, **PREDICT) as run:
            return {**seen(host, warnings, run), "again": seen(host, warnings, run)}
    if name == "dies":
        which, at = map(int, detail.split())
        calls = iter(range(1, 10**6))
        if rank == which:
            host.model.transformer.register_forward_pre_hook(lambda *_: os._exit(3) if next(calls) == at else None)
        with scope_patch.patched(host.model, **PREDICT) as run:
            return seen(host, warnings, run)
    if name == "other":
        with scope_patch.patched(host.model, **{**PREDICT, "max_skip": 2 + rank}) as run:
            return seen(host, warnings, run)
    owner, method, at, on = detail.split()
    owner = {"Session": session.Session, "Binding": bind.Binding, "FrozenKeys": frozen.FrozenKeys}[owner]
    undo = failing(owner, method, int(at)) if rank == int(on) else lambda: None
    try:
        with scope_patch.patched(host.model, **PREDICT) as run:
            return {**seen(host, warnings, run), "again": seen(host, warnings, run)}
    finally:
        undo()


def run_cases(run, host, cases, warnings):
    """What this rank saw, by case; all ranks end each of them together."""
    found = {}
    for case in cases:
        found[case] = run(host, case, warnings)
        dist.barrier()
    return found


def report(out, of_all, **group):
    """Write what `of_all(warnings)` finds within a process group (made with these options), one JSON file a rank."""
    dist.init_process_group("gloo", **group)
    Path(out, f"{dist.get_rank()}.json").write_text(json.dumps(of_all(Warnings())))
    dist.destroy_process_group()


def main(out, name, *cases):
    report(out, lambda warnings: run_cases(run_case, HOSTS[name](), cases, warnings))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.setdefault("RANK", "0")
    main(*sys.argv[1:])
