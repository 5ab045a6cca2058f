"""The pre-forward signal: the time modulation that enters the first block, sliced out of the host's own forward.

Design §3e. The forward is traced on fake tensors up to its first block, on a shallow copy of the model whose block list
is a stand-in that stops there; dead code elimination leaves what depends on the timestep; the tail that only expands it
from latent frames to tokens is cut off, so the signal stays per slot and small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from .host import Dit
from .velocity import ForwardCall

SLICED = {"timestep": "time modulation (torch.fx)", "embedding": "time embedding (torch.fx)"}

aten = torch.ops.aten
LAYOUT_ONLY = {
    *(aten.view, aten._unsafe_view, aten.reshape, aten.expand, aten.repeat, aten.permute, aten.transpose),
    *(aten.squeeze, aten.unsqueeze, aten.clone, aten.alias),
}


class SignalError(Exception):
    """The timestep signal could not be sliced out of this host's forward."""


class _Reached(Exception):  # noqa: N818
    """No error: it carries the modulation out of the host's forward."""


class _Stop(nn.Module):
    """Stands in for a part of the model: stops the forward and hands out one of the arguments."""

    def __init__(self, name: str, position: int) -> None:
        super().__init__()
        self.name, self.position = name, position

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _Reached(kwargs[self.name] if self.name in kwargs else args[self.position])


@dataclass(frozen=True)
class Slice:
    """A traced signal, valid for one width, device and structure of the model.

    Attributes:
        graph: timestep int/float [1, width] -> modulation [width, ...].
        width: latent frames it was traced at.
        dtype: of the host's timesteps.
        device: of the weights.
        weights: the parameters it reads (the host's own, not copies).
        basis: what else went into it (see `_basis`).
    """

    graph: fx.GraphModule
    width: int
    dtype: torch.dtype
    device: torch.device
    weights: tuple[Tensor, ...]
    basis: tuple[Any, ...]

    def __call__(self, timestep: Tensor) -> Tensor:
        """Features [n, ...] of n timesteps; the graph has one width, so they go in portions, the last one padded."""
        row = timestep.to(self.device, self.dtype)
        row = torch.cat([row, row[-1:].expand(-len(row) % self.width)])
        # Inside the host's own autocast region the traced casts would be cast a second time.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            portions = [self.graph(portion[None]).reshape(self.width, -1) for portion in torch.split(row, self.width)]
        return torch.cat(portions)[: len(timestep)]

    def fits(self, dit: Dit, model: nn.Module, call: ForwardCall, width: int) -> bool:
        """Whether it can still be used: wide enough, same device and fps, and the model is built as it was."""
        return width <= self.width and self.basis == _basis(dit, model, call)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are now. Raises SignalError where they are nowhere (on `meta`, or on disk)."""
    parameter = next(model.parameters(), None)
    if parameter is None or parameter.device.type == "meta" or any(map(_on_disk, model.modules())):
        raise SignalError("the model's weights are not in memory (offloaded)")
    return parameter.device


def _on_disk(module: nn.Module) -> bool:
    """Whether diffusers' group offload keeps a module's weights in files: what is in memory meanwhile means nothing."""
    hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
    groups = (getattr(hook, "group", None) for hook in hooks.values())
    return any(getattr(group, "offload_to_disk_path", None) for group in groups)


def slice_signal(dit: Dit, model: nn.Module, call: ForwardCall, width: int, of: str = "timestep") -> Slice:
    """Trace a signal of a model (a name of SLICED) for `width` latent frames.

    Raises SignalError with the step that failed.
    """
    device = device_of(model)
    # One a latent frame, also where the host gives one a sample: such a DiT takes both.
    example = call.timestep.reshape(-1)[:1].to(device).expand(1, width).clone()
    try:
        prologue = _prologue(dit, _stopped(dit, model, of), call, width)
        with torch.no_grad():
            traced = make_fx(prologue, tracing_mode="fake", _allow_non_fake_inputs=True)(example)
    except Exception as error:  # whatever a foreign forward may raise under a tracer: the caller falls back and says so
        raise SignalError(f"tracing the forward failed: {type(error).__name__}: {error}") from error
    graph = _cut_layout_tail(traced)
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    read = (getattr(graph, str(node.target), None) for node in graph.graph.nodes if node.op == "get_attr")
    weights = tuple(tensor for tensor in read if tensor is not None and id(tensor) in own)
    sliced = Slice(graph, width, example.dtype, device, weights, _basis(dit, model, call))
    try:
        modulation = sliced(example[0])
    except Exception as error:  # weights in a storage dtype that only the host's hooks make numbers of, for one
        raise SignalError(f"evaluating the slice failed: {type(error).__name__}: {error}") from error
    if not sliced.weights or modulation.shape[0] != width or not modulation.is_floating_point():
        raise SignalError(f"the slice of shape {tuple(modulation.shape)} is no modulation of {width} latent frames")
    return sliced


def _basis(dit: Dit, model: nn.Module, call: ForwardCall) -> tuple[Any, ...]:
    """Where the weights are, the arguments that are no tensors (fps), and how the model is built up to its blocks:
    adapters that come later are not in the graph."""
    given = ((name, call.arguments.get(name)) for name in dit.per_sample)
    constants = {name: value[:1] for name, value in given if isinstance(value, (list, tuple))}
    return device_of(model), repr(constants), structure(model, without=dit.blocks)


def _stopped(dit: Dit, model: nn.Module, of: str) -> nn.Module:
    """A copy of the model that stops at its first block, or where the modulation is made from the time embedding.

    It shares every tensor; the host's own is not touched.
    """
    if of == "timestep":
        prefix = _bare_copy(model, without=dit.blocks)
        prefix._modules[dit.blocks] = nn.ModuleList([_Stop(*dit.modulation)])
    else:
        if not dit.embedding:
            raise SignalError("the host's file does not say where its time embedding is")
        prefix = _bare_copy(model)
        path, _, name = dit.embedding.rpartition(".")
        prefix.get_submodule(path)._modules[name] = _Stop("", 0)
    prefix.__dict__.update(dit.neutral)
    return prefix


def _bare_copy(module: nn.Module, without: str = "") -> nn.Module:
    """The module tree anew around the same tensors, free of hooks: nobody's hooks shall see a tracer's tensors."""
    copy = object.__new__(type(module))
    instance_level = ("forward", "_hf_hook", "_old_forward", "_compiled_call_impl", "_diffusers_hook")
    copy.__dict__.update({k: v for k, v in module.__dict__.items() if k not in instance_level and "_hooks" not in k})
    for name, value in vars(nn.Module()).items():  # empty dicts of hooks, as in a new module
        copy.__dict__.setdefault(name, value)
    copy.__dict__["_modules"] = {
        name: child if child is None or name == without else _bare_copy(child)
        for name, child in module._modules.items()
    }
    return copy


def _prologue(dit: Dit, prefix: nn.Module, call: ForwardCall, width: int) -> Callable[[Tensor], Any]:
    arguments = {name: value for name, value in call.arguments.items() if not isinstance(value, dict)}
    shape = (1, call.latents.shape[1], width, *call.latents.shape[3:])
    forward = type(prefix).forward  # the class's own: an instance's may shard, offload or compile

    def prologue(timestep: Tensor) -> Any:
        given, device = dict(arguments), timestep.device
        for name in dit.per_sample:
            if given.get(name) is not None:
                first = given[name][:1]
                given[name] = first.to(device) if isinstance(first, Tensor) else first
        given[dit.latents] = torch.empty(shape, dtype=call.latents.dtype, device=device)
        given[dit.timestep] = timestep
        try:
            forward(prefix, **given)
        except _Reached as reached:
            return reached.args[0]
        raise SignalError("the forward ended before it reached a block")

    return prologue


def _cut_layout_tail(traced: fx.GraphModule) -> fx.GraphModule:
    """The modulation as it was before it was repeated for every token, without what is dead then."""
    output = next(node for node in traced.graph.nodes if node.op == "output")
    value = output.args[0]
    while isinstance(value, fx.Node) and getattr(value.target, "overloadpacket", None) in LAYOUT_ONLY:
        value = value.args[0]
    output.args = (value,)
    traced.graph.eliminate_dead_code()
    traced.graph.lint()
    return fx.GraphModule(traced, traced.graph)  # a new one takes along only the tensors that are still read


# What a model computes with beside the numbers in its tensors: modules, which tensors they hold, plain attributes.
# Adapters change it (LoRA): they come and go as modules, are switched by lists of names, and scaled by numbers.
def structure(module: nn.Module, without: str = "") -> tuple[Any, ...]:
    """Compares equal as long as nothing of it changes. Tensors count by identity: their numbers may change.

    `without`, a submodule, is left out (the blocks: nearly all of the model, and of no account before them).
    """
    tensors = (*module._parameters.values(), *module._buffers.values())
    plain = {name: value for name, value in vars(module).items() if _plain(value)}
    below = [(name, structure(child)) for name, child in module.named_children() if name != without]
    return type(module), tuple(map(id, tensors)), repr(plain), below


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_plain(key) and _plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
