"""What several steps of a host's solver come to, as weights of what goes into them; found by asking the solver itself.

Euler, UniPC, DPM-Solver and their like are linear in latents, velocities and what they remember. So a copy of the
host's takes the steps with unit vectors in the places of those, on the CPU, and what comes out are the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import NotApplied

Place = tuple[str, int | None]
"""Where a solver remembers a tensor: an attribute, and the position where that is a list."""
LATENTS: Place = ("", None)
"""Stands for the place of the latents themselves."""
Weights = dict[Place, tuple[float, ...]]
"""Memory and latents after some steps, as sums over (latents, memory, first velocity, last velocity) before them."""
Step = Callable[..., Any]
"""The solver's class's own `step`: (solver, model_output, timestep, sample, return_dict=False) -> (latents,)."""
CLOSE = 1e-4
"""How far a solver's answer for a mixture may be off the mixture of its answers, relative to them; float32 rounds."""


@dataclass(frozen=True)
class Snapshot:
    """A solver between two steps. Attributes: plain, its attributes; memory, the tensors like the latents in them."""

    plain: Mapping[str, Any]
    memory: Mapping[Place, Tensor]

    @classmethod
    def of(cls, solver: Any, sample: Tensor) -> Snapshot:
        """Nothing in it changes when the host goes on: what shares its memory with the latents is copied."""
        plain = {name: list(value) if type(value) is list else value for name, value in vars(solver).items()}
        memory = {
            place: tensor.clone() if storage(tensor) == storage(sample) else tensor
            for place, tensor in remembered(plain, sample.shape)
        }
        return cls(plain, memory)

    @property
    def numbers(self) -> Hashable:
        """What tells this state, beside tensors, from others of its class: steps so far, orders, switches."""
        kinds = (type(None), bool, int, float, str)
        return tuple((name, value) for name, value in self.plain.items() if type(value) in kinds)


def remembered(attributes: Mapping[str, Any], shape: torch.Size) -> list[tuple[Place, Tensor]]:
    """What a solver remembers of latents of that shape."""
    found: list[tuple[Place, Tensor]] = []
    for name, value in attributes.items():
        places = enumerate(value) if type(value) is list else [(None, value)]
        found += [((name, k), each) for k, each in places if isinstance(each, Tensor) and each.shape == shape]
    return found


def remember(solver: Any, memory: Mapping[Place, Tensor]) -> None:
    """Put tensors in the places of those that a solver remembers."""
    for (name, position), tensor in memory.items():
        if position is None:
            setattr(solver, name, tensor)
        else:
            getattr(solver, name)[position] = tensor


def resume(solver: Any, rows: Weights, before: Snapshot, sample: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Put a solver behind the steps: it remembers new tensors. Returns the latents there, a new one, too."""
    parts = [sample, *before.memory.values(), first, last]
    made = {place: combine(row, parts, before.memory.get(place, sample).dtype) for place, row in rows.items()}
    latents = made.pop(LATENTS)
    remember(solver, made)
    return latents


def combine(weights: Sequence[float], parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The sum of tensors by weights, in at least float32: a new tensor. TF32 would round a product of matrices."""
    wide = torch.promote_types(dtype, torch.float32)
    out: Tensor | None = None
    for weight, part in zip(weights, parts, strict=True):
        if weight == 0.0:
            continue
        out = part.to(wide) * weight if out is None else out.add_(part.to(wide), alpha=weight)
    return (torch.zeros_like(parts[0], dtype=wide) if out is None else out).to(dtype)


def constants(solver: Any) -> dict[str, Tensor]:
    """A solver's tables (noise levels, timesteps) on the CPU; the host waits for the device once."""
    return {name: value.detach().to("cpu") for name, value in vars(solver).items() if isinstance(value, Tensor)}


def weights(
    step: Step,
    kind: type,
    before: Snapshot,
    tables: Mapping[str, Tensor],
    after: Sequence[Place],
    steps: Sequence[tuple[float, float]],
    *,
    in_place: bool,
    dims: int,
) -> Weights:
    """The weights of some steps of a solver, which is not touched.

    Args:
        step, kind: its class, and the step of that.
        before: it, before the first of them.
        tables: `constants` of it.
        after: what it remembers after them.
        steps: of each, the timestep, and how much of its velocity is the last one; the rest is the first one.
        in_place: the host puts every result where the latents were, so that what points there changes, too.
        dims: dimensions of the latents.

    Raises NotApplied where it is not linear, draws random numbers, or remembers something else than before.
    """
    count = len(before.memory) + 3
    mixture = torch.linspace(0.5, 1.5, count, dtype=torch.float64)
    columns = torch.cat([torch.eye(count, dtype=torch.float64), mixture[:, None]], dim=1)
    units = [row.clone().reshape(*[1] * (dims - 1), -1) for row in columns]
    clone: Any = object.__new__(kind)
    for name, value in before.plain.items():
        clone.__dict__[name] = list(value) if type(value) is list else tables.get(name, value)
    latents, *memory, first, last = units
    remember(clone, dict(zip(before.memory, memory, strict=True)))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        drawn = torch.random.get_rng_state()
        for timestep, share in steps:
            made = step(clone, torch.lerp(first, last, share), torch.tensor(timestep), latents, return_dict=False)[0]
            latents = latents.copy_(made) if in_place else made
        if not torch.equal(drawn, torch.random.get_rng_state()):
            raise NotApplied(f"{kind.__name__} draws random numbers")
    found = dict(remembered(vars(clone), latents.shape))
    if set(found) != set(after):
        raise NotApplied(f"{kind.__name__} remembers other things than we know of")
    return {place: _row(tensor, mixture, kind) for place, tensor in (*found.items(), (LATENTS, latents))}


def _row(answer: Tensor, mixture: Tensor, kind: type) -> tuple[float, ...]:
    *row, mixed = answer.flatten().tolist()
    expected = sum(weight * share for weight, share in zip(row, mixture.tolist(), strict=True))
    if not abs(mixed - expected) <= CLOSE * (1 + sum(map(abs, row))):
        raise NotApplied(f"{kind.__name__} is not linear in latents and velocities")
    return tuple(row)


def storage(tensor: Tensor) -> int:
    """Which memory it is a view of."""
    return tensor.untyped_storage().data_ptr()


def written(tensor: Tensor) -> int | None:
    """How often something was written into it; None where nobody counts."""
    return None if tensor.is_inference() else tensor._version
