"""Which ranks share a DiT: read off its parameters, its modules, and what stands in the place of their forwards.

No engine is asked for by name where a property tells: a parameter that lies in parts, a process group that a module
holds, a forward that somebody replaced. Where there are several ranks and something cannot be read, all ranks of the
job count as sharing; where all can be read and nothing is shared (data parallel), a rank has its DiT alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import torch.distributed as dist

PRIVATE = {
    *("torch", "accelerate", "bitsandbytes", "diffusers", "gguf", "hqq", "nunchaku", "optimum", "peft", "torchao"),
    *("transformers", "scope_patch"),
}
"""Packages whose kinds of parameters and replaced forwards are one rank's own; `torch.distributed` apart."""
ENGINES = {"colossalai", "deepspeed", "fairscale", "megatron", "para_attn", "vllm", "xfuser", "yunchang"}
"""Packages whose modules and hooks are there to share a model."""


class Sign(NamedTuple):
    """Something that tells of sharing.

    Attributes:
        why: for people.
        ranks: global ones, of which this is one; None: nothing says which, so all.
        part: the kind of parts in which weights lie here, or "".
        tokens: not weights alone may be shared out, but tokens, too.
        loose: of no interest where it is known who shares the weights: that explains it.
    """

    why: str
    ranks: tuple[int, ...] | None
    part: str = ""
    tokens: bool = True
    loose: bool = False


@dataclass(frozen=True)
class Sharing:
    """How a DiT is shared.

    Attributes:
        ranks: the global ranks that have it together; empty where this one has it alone.
        why: how that shows, for people.
        tokens: they may split tokens, and not weights alone.
        parts: kinds of parts in which weights lie here.
    """

    ranks: tuple[int, ...] = ()
    why: str = ""
    tokens: bool = False
    parts: frozenset[str] = frozenset()

    @property
    def scattered(self) -> bool:
        """Whether no weight can be read without the other ranks; of DTensors alone, some may be whole."""
        return bool(self.parts - {"DTensor"})

    @property
    def uncounted(self) -> bool:
        """Whether the weights' `numel` is that of this rank's parts."""
        return bool(self.parts - {"DTensor", "FSDP2"})


def sharing(model: Any, more: Sequence[int] | None = None) -> Sharing:
    """What shows at this moment; the same on all ranks that share it.

    Args:
        model: the DiT, within whatever wraps it.
        more: the ranks that its own code shares it among; None: nobody says, and the groups are looked for that modules
            of this code keep.
    """
    signs = [Sign("by the host's own groups", tuple(more))] if more else []
    everyone: tuple[int, ...] = ()
    if dist.is_available() and dist.is_initialized():
        everyone = tuple(range(dist.get_world_size()))
        signs += dict.fromkeys([*_signs(model), *(_of_code(model) if more is None else ())])
    parts = frozenset(sign.part for sign in signs if sign.part)
    if any(sign.part and not sign.loose for sign in signs):
        signs = [sign for sign in signs if not sign.loose]
    groups = {sign: everyone if sign.ranks is None else sign.ranks for sign in signs}
    groups = {sign: group for sign, group in groups.items() if len(group) > 1}
    if not groups:
        return Sharing(parts=parts)
    widest = max(groups.values(), key=len)
    # Groups that cross (some weights one way, some another) chain ranks together: how far, no single rank can tell.
    ranks = widest if all(set(group) <= set(widest) for group in groups.values()) else everyone or widest
    return Sharing(tuple(sorted(ranks)), next(iter(groups)).why, any(sign.tokens for sign in groups), parts)


def _signs(model: Any) -> Iterator[Sign]:
    """All of them, each once or more often."""
    fsdp2, unnamed = False, _unnamed()
    for module in model.modules():
        names = {base.__name__ for base in type(module).__mro__}
        if "FullyShardedDataParallel" in names:
            whole = module.sharding_strategy.name == "NO_SHARD"
            ranks = (dist.get_rank(),) if whole else _members(module.process_group)
            yield Sign("FSDP shards it", ranks, "FSDP", tokens=False)
        elif "DistributedDataParallel" in names:
            if module.will_sync_module_buffers():
                yield Sign("DDP broadcasts its buffers in every forward", _members(module.process_group))
        else:
            fsdp2 = fsdp2 or "FSDPModule" in names
            yield from _of_module(module, unnamed)
    if fsdp2:  # between forwards its parameters may be whole
        yield Sign("FSDP shards it", None, "FSDP2", tokens=False, loose=True)
    for parameter in model.parameters():
        yield from _of_parameter(parameter, fsdp2)


def _of_module(module: Any, unnamed: tuple[int, ...] | None) -> Iterator[Sign]:
    """Of one module: who wrote its class, its hooks and its forward, and whom it talks to."""
    kind, own = type(module).__name__, {base.__module__ for base in type(module).__mro__}
    for source in own:
        if _engine(source):
            yield Sign(f"{kind} is made by {source}", unnamed, tokens=not _torch(source), loose=_torch(source))
    yield from (Sign(f"{kind} holds a process group", ranks) for ranks in _groups(vars(module)))
    parallel = getattr(module, "_parallel_config", None)
    for name in ("context_parallel_config", "tensor_parallel_config"):
        config = getattr(parallel, name, None)
        if config is not None:
            mesh = getattr(config, "_flattened_mesh", None) or getattr(config, "_mesh", None)
            ranks = None if mesh is None else tuple(mesh.mesh.flatten().tolist())
            yield Sign(f"diffusers' {name.removesuffix('_config')}", ranks)
    for name in ("_forward_pre_hooks", "_forward_hooks"):
        for hook in vars(module).get(name, {}).values():
            if _engine(source := _written_in(hook)):
                yield Sign(f"{kind} has a hook of {source}", unnamed, tokens=not _torch(source), loose=_torch(source))
    for name in ("forward", "_old_forward"):  # the latter is what accelerate puts aside
        source = _written_in(vars(module).get(name))
        if source and source not in own and (_torch(source) or source.partition(".")[0] not in PRIVATE):
            yield Sign(f"{kind}.forward is replaced by one of {source}", unnamed)


def _of_parameter(parameter: Any, fsdp2: bool) -> Iterator[Sign]:
    kind = type(parameter)
    if hasattr(parameter, "placements"):
        mesh, placements = parameter.device_mesh, parameter.placements
        place = mesh.get_coordinate()
        if place is None or all(each.is_replicate() for each in placements):
            return
        # Replicas are not among those that share: along a dimension that is not sharded, this rank's own place.
        index = tuple(at if each.is_replicate() else slice(None) for at, each in zip(place, placements, strict=True))
        sharded = tuple(mesh.mesh[index].flatten().tolist())
        tokens = not fsdp2 or sum(not each.is_replicate() for each in placements) > 1
        yield Sign("FSDP shards it" if not tokens else "its parameters are sharded", sharded, "DTensor", tokens)
    elif hasattr(parameter, "ds_id"):
        group = getattr(parameter, "ds_process_group", None)
        ranks = None if group is None else _members(group)
        yield Sign("DeepSpeed shards its parameters", ranks, "ZeRO", tokens=False)
    elif _torch(kind.__module__):
        yield Sign(f"its parameters are {kind.__name__}s", None, kind.__name__, tokens=False, loose=True)
    elif kind.__module__.partition(".")[0] not in PRIVATE:
        yield Sign(f"its parameters are {kind.__module__}.{kind.__name__}s, which we do not know", None)
    elif _freed(parameter):
        yield Sign("parameters of it have no numbers here", None, "freed", loose=True)


def _freed(parameter: Any) -> bool:
    """Whether an engine has taken its numbers away until they are needed."""
    if parameter.numel() == 0:
        return True
    plain = type(parameter).__name__ == "Parameter" and parameter.device.type != "meta"
    return plain and parameter.untyped_storage().size() == 0


def _of_code(model: Any) -> Iterator[Sign]:
    """Of the modules that its classes are written in, and of those of the same package that these use."""
    for source in sorted({base.__module__ for module in model.modules() for base in type(module).__mro__}):
        package = source.partition(".")[0]
        names = {} if package in PRIVATE or source not in sys.modules else vars(sys.modules[source])
        used = {id(names): names}
        for value in [*names.values()]:
            found = value.__globals__ if isinstance(value, FunctionType) else None
            found = vars(value) if isinstance(value, ModuleType) else found
            if found is not None and str(found.get("__name__")).partition(".")[0] == package:
                used[id(found)] = found
        for found in used.values():
            yield from (Sign(f"{found.get('__name__')} keeps a process group", each) for each in _groups(found))


def _groups(held: Mapping[str, Any]) -> Iterator[tuple[int, ...]]:
    """The ranks of every process group and device mesh among some values."""
    for value in [*held.values()]:
        if isinstance(value, dist.ProcessGroup):
            yield _members(value)
        elif isinstance(value, dist.device_mesh.DeviceMesh):
            yield tuple(value.mesh.flatten().tolist())


def _members(group: Any) -> tuple[int, ...]:
    return tuple(dist.get_process_group_ranks(group))


def _unnamed() -> tuple[int, ...] | None:
    """The ranks that share what does not say whom it is shared with: xfuser's sequence parallel group, if there is one
    and nothing but data parallelism beside it. None: all."""
    xfuser = sys.modules.get("xfuser.core.distributed")
    if xfuser is None or not xfuser.model_parallel_is_initialized():
        return None
    members = tuple(xfuser.get_sp_group().ranks)
    return members if len(members) * xfuser.get_data_parallel_world_size() == dist.get_world_size() else None


def _torch(source: str) -> bool:
    """Whether it is of torch.distributed, but for what shares nothing there: activation checkpoints."""
    return source.startswith("torch.distributed") and not source.startswith("torch.distributed.algorithms")


def _engine(source: str) -> bool:
    return _torch(source) or source.partition(".")[0] in ENGINES


def _written_in(function: Any) -> str:
    """The module that a callable's code stands in, whatever `functools.update_wrapper` makes it say; "" of None."""
    if function is None:
        return ""
    inner = function
    while inner is not None:
        function = inner
        inner = function.func if isinstance(function, partial) else None
        for name in ("_torchdynamo_orig_callable", "__func__"):
            inner = getattr(function, name, None) if inner is None else inner
    found: str = getattr(function, "__globals__", {}).get("__name__") or type(function).__module__
    return found
