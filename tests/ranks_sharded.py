"""A DiT whose weights two ranks share, in torch's own ways; a script for torchrun (tests/test_ranks_sharded.py).

torchrun ... ranks_sharded.py OUT HOST:CASE,CASE... HOST:...     one JSON file a rank: host -> case -> what it saw
"""

from __future__ import annotations

import datetime
import os
import sys
from unittest import mock

import torch
import torch.distributed as dist
from diffusers import DiffusionPipeline
from hosts import fake_pipeline, generate, tiny_pipeline
from ranks import PREDICT, counted, report, run_case, run_cases, seen
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode

import scope_patch
from scope_patch.patch import planning
from scope_patch.patch.signal import SignalError


class Shared:
    """A pipeline whose DiT is shared by `share`: in place, or by what that returns."""

    def __init__(self, make, share):
        self.pipe = self.model = make()
        network = self.pipe.transformer
        self.pipe.transformer = share(network) or network
        self.forwards = counted(network.patch_embedding)

    def generate(self):
        return make_video(self.pipe)


def make_video(pipe):
    """Latents of 15 latent frames in 3 blocks, 4 steps: 16 forwards, of which the last 4 can be skipped."""
    torch.manual_seed(7)
    steps = {"num_inference_steps": 4, "ar_step": 2}
    if isinstance(pipe, DiffusionPipeline):
        return generate(pipe, num_frames=57, **steps)
    return pipe("a disc", num_frames=15, **steps)


def tiny():
    return tiny_pipeline(inject_sample_info=False)


def fsdp2(network):
    from torch.distributed.fsdp import fully_shard

    for module in [*network.blocks, network]:
        fully_shard(module, mesh=init_device_mesh("cpu", (2,)))


def fsdp1(orig):
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    def share(network):
        policy = ModuleWrapPolicy({type(network.blocks[0])})
        return FullyShardedDataParallel(
            network, auto_wrap_policy=policy, use_orig_params=orig, device_id=torch.device("cpu")
        )

    return share


def tensor_parallel(network):
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {"ffn.net.0.proj": ColwiseParallel(), "ffn.net.2": RowwiseParallel()}
    for block in network.blocks:
        parallelize_module(block, init_device_mesh("cpu", (2,)), plan)


HOSTS = {
    "fsdp2": (tiny, fsdp2),
    "fsdp1": (tiny, fsdp1(True)),
    "fsdp1 flat": (fake_pipeline, fsdp1(False)),  # diffusers' DiT looks for parameters where there are none then
    "tensor": (tiny, tensor_parallel),
    "alone": (tiny, lambda network: None),
}


class Collectives(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "c10d" in func.namespace
        return func(*args, **(kwargs or {}))


def run(host, case, warnings):
    """See tests/test_ranks_sharded.py for what the cases are."""
    if case == "residual":
        with scope_patch.patched(host.model, **PREDICT, level="residual") as run:
            return seen(host, warnings, run)
    if case == "parted":  # one rank cannot read the signal, and would decide otherwise
        with scope_patch.patched(host.model, cache_threshold=0.02, predict_threshold=0.3, rank_timeout=5.0) as run:
            if dist.get_rank() == 0:
                return seen(host, warnings, run)
            with mock.patch.object(planning, "slice_signal", side_effect=SignalError("on this rank only")):
                return seen(host, warnings, run)
    if case == "uneven":  # each rank makes videos of its own, and one makes more
        with scope_patch.patched(host.model, **PREDICT, strict=True) as run:
            return [seen(host, warnings, run) for _ in range(1 + dist.get_rank())]
    with Collectives() as collectives:
        told = run_case(host, case, warnings)
    return {**told, "collectives": collectives.count}


def main(out, *jobs):
    def of_all(warnings):
        found = {}
        for name, _, cases in (job.partition(":") for job in jobs):
            found[name] = run_cases(run, Shared(*HOSTS[name]), cases.split(","), warnings)
        return found

    report(out, of_all, timeout=datetime.timedelta(seconds=40))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.setdefault("RANK", "0")
    main(*sys.argv[1:])
