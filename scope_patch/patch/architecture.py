"""The questions a registry file answers about somebody else's model. Declarative; imports neither torch nor a host."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..settings import PRESETS

GENERATION = "generation"
"""Role: one call makes one video; state begins and ends with it."""
SCHEDULE = "schedule"
"""Role: returns (timestep matrix, step index, update mask, intervals) for one segment."""
STEP = "step"
"""Role: one denoise step of a loop whose steps are calls; its arguments say which input and which step."""
FORWARD = "forward"
"""Role: the DiT forward."""
READ = "read"
"""Role: nothing is replaced; we call this method to learn the schedule."""


@dataclass(frozen=True)
class Seam:
    """One place where the host's code is entered.

    Attributes:
        role: GENERATION, SCHEDULE, STEP, FORWARD or READ.
        module: the defining module (never `__main__`).
        owner: the class, by name.
        attribute: the method whose signature is checked.
        parameters: parameter names that must be there, in this order (others may stand between and behind).
        bases: class names that must be in the owner's MRO, besides itself.
        patched: the attribute that is replaced, where it is another one. `__call__` stands in for a DiT's `forward`:
            sequence parallelism and offload hooks replace `forward` on the instance, and `__call__` comes before it.
        mentions: words that the method's text must hold, as names or strings: what it passes on by keyword.
    """

    role: str
    module: str
    owner: str
    attribute: str
    parameters: tuple[str, ...]
    bases: tuple[str, ...] = ()
    patched: str = ""
    mentions: tuple[str, ...] = ()

    @property
    def replaced(self) -> str:
        return self.patched or self.attribute


@dataclass(frozen=True)
class Fact:
    """A structural fact we rely on: `owner.__init__` in `module` assigns `attribute` by calling `made_by`."""

    module: str
    owner: str
    attribute: str
    made_by: str

    def __str__(self) -> str:
        return f"{self.module}.{self.owner} has {self.attribute}, a {self.made_by}"


@dataclass(frozen=True)
class ForwardNames:
    """Parameter names of the DiT forward.

    Attributes:
        latents: [batch, channels, latent frames, height, width].
        timestep: [batch, latent frames].
        condition: what tells the CFG branches apart (the text embedding).
        per_sample: arguments with one entry a sample of the batch, beside the latents.
        modulation: the time modulation among the arguments of a block: its name and its position. This and `per_sample`
            are for tracing the timestep signal out of the forward.
        embedding: the submodule whose first input is the time embedding, from which the modulation is made.
    """

    latents: str
    timestep: str
    condition: str
    per_sample: tuple[str, ...] = ()
    modulation: tuple[str, int] = ("", 0)
    embedding: str = ""


@dataclass(frozen=True)
class Stepwise:
    """What we know of a host that denoises chunk by chunk in steps that are calls (MAGI-1).

    Such a host has no list of intervals to be watched; its schedule is worked out before the first step instead, and a
    slot is a chunk of latent frames.

    Attributes:
        position: parameters of the STEP seam that say which input (of several) and which step.
        rows: (pipeline, input) -> one `hosts.magi.Row` a step: which chunks are denoised at which timesteps.
        frames: (pipeline) -> latent frames a chunk.
        feature: (pipeline, input, DiT) -> the timestep signal, timesteps [n] -> features [n, ...].
        unscheduled: forward arguments -> why this call is none of a step's own ("prefix"), or "".
        narrow: (forward arguments, first, last) -> arguments that forward the call's chunks [first, last) alone.
        work: (DiT, forward arguments) -> (runs of the network, chunks in them) of one forward of the seam.
    """

    position: tuple[str, str]
    rows: Callable[[Any, int], Sequence[Any]]
    frames: Callable[[Any], int]
    feature: Callable[[Any, int, Any], Callable[[Any], Any]]
    unscheduled: Callable[[Mapping[str, Any]], str]
    narrow: Callable[[Mapping[str, Any], int, int], dict[str, Any]]
    work: Callable[[Any, Mapping[str, Any]], tuple[int, int]]


@dataclass(frozen=True)
class Architecture:
    """What we know about one family of models.

    Attributes:
        name: as `list` prints it.
        title: for people.
        source: where the code lives, with the commit or versions it was read at.
        triggers: top-level packages whose import makes us look.
        groups: name -> seams that belong together; a group is bound whole or not at all.
        facts: structural facts, checked with every group.
        versions: distribution -> version specifier, for torch and diffusers only.
        forward: argument names of the DiT forward.
        model: pipeline -> the DiT (possibly inside a compiled wrapper).
        blocks: attribute of the DiT that lists its blocks.
        bypass: pipeline -> why its blocks cannot be bypassed (the residual level), or "". The blocks must be called
            one after the other with the hidden states first, and return them; tokens are slot by slot.
        size: DiT -> (channels, blocks); (0, 0) where that is not known.
        noise_level: the host's timestep -> sigma in 0 (clean) .. 1 (noise); works on tensors.
        refuse: (pipeline, DiT) -> why this generation must run unpatched, or "".
        block_causal: DiT -> whether older latent frames are blind to younger ones now, so that leaving out those that
            have not started changes nothing for the others.
        signal: what decisions are made from unless the user says otherwise.
        placement: how recomputes are chosen for a speed-up unless the user says otherwise: "error" (they are placed
            where skipping would err most) or "threshold" (by thresholds on the signal).
        presets: name -> speed-up of the DiT's work that is aimed at.
        preset_limit: the highest predict threshold that a preset may take to get there; a target that the user names
            has no such limit.
        cost: (pipeline, first forward arguments, schedule, input) -> the FLOPs of forwarding slots at an iteration.
        ranks: pipeline -> the global ranks that share its DiT, in whatever way: one must not skip a forward that
            another one enters. Empty, or one, where each rank has a DiT of its own.
        stepwise: what is known of the loop, where its steps are calls.
        neutral: attributes of the DiT set to these values while its timestep signal is traced.
    """

    name: str
    title: str
    source: str
    triggers: tuple[str, ...]
    groups: Mapping[str, tuple[Seam, ...]]
    facts: tuple[Fact, ...]
    forward: ForwardNames
    model: Callable[[Any], Any]
    noise_level: Callable[[Any], Any]
    refuse: Callable[[Any, Any], str]
    block_causal: Callable[[Any], bool] = lambda model: True
    blocks: str = "blocks"
    bypass: Callable[[Any], str] = lambda pipeline: "its blocks are called in a way that we do not know"
    size: Callable[[Any], tuple[int, int]] = lambda model: (0, 0)
    cost: Callable[[Any, Mapping[str, Any], Any, int], Callable[[int, tuple[int, int]], float]] | None = None
    signal: str = "timestep"
    placement: str = "error"
    preset_limit: float = math.inf
    presets: Mapping[str, float] = field(default_factory=lambda: PRESETS)
    ranks: Callable[[Any], Sequence[int]] = lambda pipeline: ()
    stepwise: Stepwise | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    neutral: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module that defines a seam, in the order of the groups."""
        return tuple(dict.fromkeys(seam.module for seams in self.groups.values() for seam in seams))
