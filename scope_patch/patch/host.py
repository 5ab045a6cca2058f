"""What a host is: the questions that a registry file answers about somebody else's model.

Declarative; imports neither torch nor a host. Everything with a sensible default has one, so that a file says only what
is particular to its model: where a video is made, which class is the DiT, and what its denoise loop is (`loops`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..settings import PRESETS
from . import defaults
from .loops import Loop
from .seams import FORWARD, VIDEO, Fact, Seam

if TYPE_CHECKING:
    from ..method.decision import Size
    from ..method.resolved import HostDefaults

PAGE = "see `Add your model` in docs/patching.md"
NO_WIDTHS = "--widths has no say here: the host itself says which chunks are forwarded, and all of them are"
Cost = Callable[..., float]
"""(iteration, slots) -> FLOPs of forwarding them, of one call of the DiT."""


@dataclass(frozen=True)
class Dit:
    """The network whose forwards are skipped.

    Attributes:
        module, owner: where its class is defined, and what it is called there.
        latents: parameter name of the latents, [batch, channels, latent frames, height, width].
        timestep: parameter name of the timestep, [batch] or [batch, latent frames] (or one a chunk).
        condition: parameter name of the text embedding.
        more: further parameters relied on, which must be there, behind the condition.
        names: all parameters relied on, in their order, where it is another one.
        conditioning: parameters that tell the CFG branches apart, and of which a change, by another tensor or in place,
            is another prompt; (): all but latents, timestep and plain values.
        method: the method that is the forward.
        bases: class names in its MRO.
        blocks: attribute that lists its blocks.
        made_by: the class that list is.
        per_sample: arguments with one entry a sample of the batch, beside the latents.
        modulation: the time modulation among the arguments of a block: its name and its position; ("", 0): not known,
            and thresholds on the timestep signal are not offered. This, `per_sample`, `embedding` and `neutral` are for
            tracing the timestep signal out of the forward.
        embedding: the submodule whose first input is the time embedding, from which the modulation is made.
        neutral: attributes of the DiT set to these values while its timestep signal is traced.
    """

    module: str
    owner: str
    latents: str
    timestep: str
    condition: str
    more: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    conditioning: tuple[str, ...] = ()
    method: str = "forward"
    bases: tuple[str, ...] = ("ModelMixin",)
    blocks: str = "blocks"
    made_by: str = "ModuleList"
    per_sample: tuple[str, ...] = ()
    modulation: tuple[str, int] = ("", 0)
    embedding: str = ""
    neutral: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seam(self) -> Seam:
        names = self.names or ("self", self.latents, self.timestep, self.condition, *self.more)
        patched = "__call__" if self.method == "forward" else ""
        return Seam(FORWARD, self.module, self.owner, self.method, names, self.bases, patched)


@dataclass(frozen=True)
class Keys:
    """What must be known of the DiT's self-attention to keep keys and values of finished latent frames.

    It must call `scaled_dot_product_attention` once a block, [batch, heads, tokens, channels], tokens frame by frame.

    Attributes:
        attention: the submodule of a block that is its self-attention.
        rotary: the rotary embedding among its arguments: its name and position.
        shifted: (DiT, latents, first, rotary embedding of the latents) -> that of latent frames from `first` on.
        block: DiT -> latent frames of a block, of which none sees a later one; 0: all see all.
        obstacle: DiT -> why it cannot be had, or "".
        bytes: (DiT, latents, guidance branches) -> bytes that one kept latent frame takes in all.
        noised: arguments of the call that makes the video -> whether given latent frames get new noise at every step.
    """

    attention: str
    rotary: tuple[str, int]
    shifted: Callable[[Any, Any, int, Any], Any]
    block: Callable[[Any], int]
    obstacle: Callable[[Any], str]
    bytes: Callable[[Any, Any, int], int]
    noised: Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Entry:
    """Where a video is made: methods of one class, each call of which makes one, as a generator or not.

    Attributes:
        title: for people; the class's name where it says enough.
        loop: the denoise loop in these methods, where it is not the host's.
    """

    module: str
    owner: str
    methods: tuple[str, ...] = ("__call__",)
    bases: tuple[str, ...] = ()
    title: str = ""
    loop: Loop | None = None

    @property
    def name(self) -> str:
        return self.title or self.owner


@dataclass(frozen=True, kw_only=True)
class Host:
    """One family of models, whatever its kind of loop.

    Attributes:
        name: as `list` prints it.
        title: for people.
        source: where the code lives, with the commit or versions it was read at.
        triggers: top-level packages whose import makes us look.
        videos: where videos are made; each entry is bound whole (with its loop and the DiT) or not at all.
        dit: the network.
        loop: of all entries that name none.
        versions: distribution -> version specifier, for torch and diffusers only.
        facts: structural facts, beside the DiT's list of blocks.
        model: pipeline -> the DiT (possibly inside a compiled wrapper).
        guided: (pipeline, arguments of the call that makes the video) -> whether its velocities are made of several
            guidance branches.
        refuse: (pipeline, DiT, arguments of the call that makes the video) -> why it must run unpatched, or "".
        extra: forward arguments -> why this call is none of a denoise step's own (it fills a cache), or "": such a
            forward always runs and is never a history point.
        narrow: (forward arguments, first, last) -> arguments that forward the call's slots [first, last) alone.
        work: (DiT, forward arguments) -> (runs of the network, slots in them) of one call; None: one run, its slots.
        moving: slots are chunks of a window that moves along the video; else they are latent frames.
        independent: DiT -> whether older slots are blind to younger ones now, so that leaving out those that have not
            started changes nothing for the others.
        bypass: pipeline -> why its blocks cannot be bypassed (the residual level), or "". The blocks must be called
            one after the other with the hidden states first, and return them; tokens are slot by slot.
        size: (DiT, name of its blocks) -> (channels, blocks); (0, 0) where that is not known.
        cost: (pipeline, first forward arguments, schedule, section) -> the FLOPs of forwarding slots at an iteration.
        keys: for keeping keys and values; None: finished latent frames are forwarded along. `cost` then takes a third
            argument, the latent frames that are attended to beside those which are forwarded.
        ranks: pipeline -> the global ranks that the host's own code shares its DiT among, by groups that it keeps for
            itself. Empty: none. None: it does not say, and groups are looked for. What wraps or replaces parts of the
            DiT (FSDP, `use_usp`) is seen on every host (`sharing`).
        presets: name -> speed-up of the DiT's work that is aimed at.
        preset_limit: the highest predict threshold that a preset may take to get there, where thresholds decide; a
            target that the user names has no such limit.
        signal: what thresholds look at unless the user says otherwise: "timestep" or "expected".
        feature: (pipeline, section, DiT) -> the timestep signal, timesteps [n] -> features [n, ...]; None: it is traced
            out of the forward.

    Raises ValueError for a file that leaves out an answer, which it names.
    """

    name: str
    title: str
    source: str
    triggers: tuple[str, ...]
    videos: tuple[Entry, ...]
    dit: Dit
    loop: Loop | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()
    model: Callable[[Any], Any] = lambda pipeline: pipeline.transformer
    guided: Callable[[Any, Mapping[str, Any]], bool] = defaults.guided
    refuse: Callable[[Any, Any, Mapping[str, Any]], str] = defaults.refuse
    extra: Callable[[Mapping[str, Any]], str] = lambda arguments: ""
    narrow: Callable[[Mapping[str, Any], int, int], dict[str, Any]] | None = None
    work: Callable[[Any, Mapping[str, Any]], tuple[int, int]] | None = None
    moving: bool = False
    independent: Callable[[Any], bool] = lambda model: True
    bypass: Callable[[Any], str] = lambda pipeline: "its blocks are called in a way that we do not know"
    size: Callable[[Any, str], tuple[int, int]] = defaults.size
    cost: Callable[[Any, Mapping[str, Any], Any, int], Cost] | None = None
    keys: Keys | None = None
    ranks: Callable[[Any], Sequence[int]] | None = None
    presets: Mapping[str, float] = field(default_factory=lambda: PRESETS)
    preset_limit: float = math.inf
    signal: str = ""
    feature: Callable[[Any, int, Any], Callable[[Any], Any]] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.triggers, str) or not self.triggers:
            raise ValueError(
                f"{self.name}: `triggers` is {self.triggers!r}, but must be a tuple of package names; {PAGE}"
            )
        if not self.videos:
            raise ValueError(f"{self.name}: `videos` names no entry where a video is made; {PAGE}")
        for entry in self.videos:
            problem = f"`loop` of {entry.name} is not said: a Clock, a Watched or Called one"
            if (loop := entry.loop or self.loop) is not None:
                problem = loop.problem()
            if problem:
                raise ValueError(f"{self.name}: {problem}; {PAGE}")
        if not self.signal:
            object.__setattr__(self, "signal", "timestep" if self.dit.modulation[0] or self.feature else "expected")

    def loop_of(self, entry: Entry) -> Loop:
        loop = entry.loop or self.loop
        assert loop is not None  # looked at when it was made
        return loop

    def seams(self, entry: Entry) -> tuple[Seam, ...]:
        """All places where an entry is entered."""
        videos = (Seam(VIDEO, entry.module, entry.owner, method, bases=entry.bases) for method in entry.methods)
        return (*videos, *self.loop_of(entry).seams(entry), self.dit.seam)

    @property
    def all_facts(self) -> tuple[Fact, ...]:
        """Structural facts, the DiT's list of blocks among them."""
        return (Fact(self.dit.module, self.dit.owner, self.dit.blocks, self.dit.made_by), *self.facts)

    def runs(self, model: Any, arguments: Mapping[str, Any], slots: int) -> tuple[int, int]:
        """(runs of the network, slots in them) of one forward over so many slots."""
        return (1, slots) if self.work is None else self.work(model, arguments)

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module that defines a seam, in the order of the entries."""
        return tuple(dict.fromkeys(seam.module for entry in self.videos for seam in self.seams(entry)))

    def defaults_for(self, size: Size) -> HostDefaults:
        """What presets and settings mean for a model of that size: the same for a run and for a plan without one."""
        from ..method.resolved import HostDefaults

        return HostDefaults(self.presets, self.preset_limit, size, self.signal)
