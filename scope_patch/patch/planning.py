"""What is decided in a section of a generation, from what the host and its model are: schedule, signal, work, plan."""

from __future__ import annotations

import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from ..errors import NotApplied, UsageError
from ..method.decision import StepDecision
from ..method.fold import EXPECTED, Feature, placed_by
from ..method.frozen import ALONG, Freezing, allowed, refusal
from ..method.plan import Planner, Work
from ..method.profile import Profile, read
from ..method.schedule import Schedule, Table, Widths, by_step
from ..method.verifying import longest
from ..settings import Settings
from . import defaults
from .bypass import Span
from .frozen import FrozenKeys
from .measured import Verification
from .replay import ChunkReplays, Replays, SolverReplays
from .signal import SLICED, SignalError, Slice, slice_signal
from .velocity import ForwardCall

if TYPE_CHECKING:
    from .generation import Generation

logger = logging.getLogger("scope_patch")

SPARE = 2
"""Compilations that are left to the host: a shorter last segment, another batch."""

_tracing = threading.Lock()
_slices: WeakKeyDictionary[nn.Module, dict[str, Slice]] = WeakKeyDictionary()
"""Traced signals outlive a generation: tracing costs more than a forward of a small model."""


class Planning:
    """Plans the sections of one generation; its record is told by which signal, and what could not be had."""

    def __init__(self, generation: Generation) -> None:
        self.host, self.pipeline, self.model = generation.host, generation.pipeline, generation.model
        self.method, self.record = generation.method, generation.record
        self._sharing, self._arguments = generation.sharing, generation.arguments

    @property
    def span(self) -> Span | None:
        """Which blocks are bypassed, at the residual level; None: skipped forwards are not called."""
        bypasses = self.method.level != "velocity" and self.method.policy.active
        return getattr(self.method.policy, "span", lambda iteration, iterations: None) if bypasses else None

    @cached_property
    def _widths(self) -> Widths:
        return Widths(few_enough(self.host.model(self.pipeline), self.method.settings))

    def schedule(self, table: Callable[[], Table]) -> Schedule:
        """The schedule of a section. Raises NotApplied where its table is not what we know."""
        try:
            read = table()
            read.check()
        except ValueError as problem:
            raise NotApplied(f"the host's schedule is not what we know: {problem}") from problem
        independent = self.host.independent(self.model)
        schedule = Schedule.of(read, selective=self.method.selective(independent), widths=self._widths)
        block = self.host.keys.block(self.model) if self.host.keys is not None and independent else 0
        ends = {end for _, end in schedule.intervals}
        if block > 1 and any(end % block and end < max(ends) for end in ends):  # the last block may be cut in two
            schedule = Schedule.of(read, selective=False, widths=self._widths)
            self.record.remark(
                "all latent frames are forwarded: latent frames come under way within the blocks of the model's causal "
                "attention"
            )
        if schedule.intervals != schedule.baseline and schedule.selective and not independent:
            self.record.remark(
                "latent frames that had not started were left out, and the attention is not block-causal: the others "
                "see a shorter clip (--no-selective keeps them)"
            )
        if self.method.settings.widths is None and self._widths.limited:
            self.record.remark(
                "the DiT is compiled for static shapes, of which torch takes few: latent frames are forwarded in at "
                f"most {self._widths.most} widths (--widths, for `plan` too; or compile with dynamic=None)"
            )
        return by_step(schedule) if self.method.traits.by_step else schedule

    def verdicts(
        self, call: ForwardCall, schedule: Schedule, key: int, verification: Verification | None
    ) -> tuple[Sequence[StepDecision], FrozenKeys | None]:
        """Everything that is decided in a section, noted in the record; and what keeps keys and values, if they are.

        Args:
            call: its first forward.
            verification: what will run some skipped forwards all the same.
        """
        work, unit = self.work(call, schedule, key)
        try:
            freezing = self._freezing(call, schedule)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            freezing = None
            self.record.remark(f"{ALONG}: the model cannot be read ({error})")
        feature = self._feature(call, schedule, key)
        plans = Planner(self.method, schedule, work, feature, freezing, self._guided)
        shown = plan = plans.resolved(self.profile)
        if verification is not None:
            shown, _ = plans.verified(plan, verification.state)
        planned = {"target": shown.target, "unit": unit, **shown.summary}
        if verification is not None:
            verification.follow(longest(shown.verdicts), planned, plans.cost)
        self.record.planned.append(planned)
        if plan.remark:
            self.record.remark(plan.remark)
        if freezing is None:
            return plan.verdicts, None
        last = max((i for i, verdict in enumerate(shown.verdicts) if verdict.runs), default=0)
        return plan.verdicts, FrozenKeys(self.host, self.model, freezing, last)

    def replays(self, schedule: Schedule, joint: bool) -> Replays | None:
        """What takes skipped steps of a section again; None where nothing shall.

        Args:
            joint: one solver steps all latent frames, else there is one each.
        """
        if not self.method.replays:
            return None
        if self.host.moving:
            return ChunkReplays(schedule, self.record.remark)
        return SolverReplays(schedule, self.record.remark, joint=joint, blind=defaults.edits(self._arguments))

    @property
    def _guided(self) -> bool:
        """Whether velocities are made of several guidance branches; where the host cannot say, yes."""
        try:
            return bool(self.host.guided(self.pipeline, self._arguments))
        except Exception as error:  # a property of somebody's pipeline: it may raise anything
            self.record.remark(f"planned as if there were guidance: the pipeline does not say ({error!r})")
            return True

    def _freezing(self, call: ForwardCall, schedule: Schedule) -> Freezing | None:
        """Which finished latent frames keep their keys and values; None: none does, and the record says why.

        Raises AttributeError and the like where the model is not as the host's file says.
        """
        keys, wanted = self.host.keys, self.method.frozen(self.host.independent(self.model))
        if keys is None or wanted is None:
            return None
        block = keys.block(self.model)
        if not block and not wanted.full:
            return None
        size = keys.bytes(self.model, call.latents, 1 + self._guided)
        freezing = Freezing.of(schedule, block, size, allowed(wanted, call.latents.device))
        if not freezing.any:
            return None
        why = refusal(schedule, keys.noised(self._arguments), self.method.settings.widths) or keys.obstacle(self.model)
        if not why and defaults.edits(self._arguments):
            why = (
                "a callback is handed the latents and may edit those (callback_on_step_end_tensor_inputs says what it "
                "is handed)"
            )
        elif not why and next(_compiled(self.host.model(self.pipeline)), None) is not None:
            why = "the model is compiled"
        elif not why and self._sharing.tokens:
            why = f"its tokens may be split among ranks ({self._sharing.why})"
        remark = freezing.remark(why, block)
        if remark:
            self.record.remark(remark)
        return None if why else freezing

    def _feature(self, call: ForwardCall, schedule: Schedule, key: int) -> Feature | None:
        """What decisions hang on, named in the record: where that is a feature of the timestep (equation 4), it.

        The host's time modulation (or, where the policy wants that, the time embedding that it is made from), or the
        timestep itself where slicing failed.
        """
        if self.method.placed:
            self.record.signal = placed_by(None if self.profile is None else self.method.settings.profile)
        of = self.method.asks
        if of == "expected":
            self.record.signal = EXPECTED
        if of in ("", "expected"):
            return None
        if self.host.feature is not None:
            self.record.signal = "timestep embedding"
            return self.host.feature(self.pipeline, key, self.model)
        dit = self.host.dit
        width = max(end - start for start, end in schedule.baseline)
        try:
            if self._sharing.scattered:
                raise SignalError(f"the model's weights lie in parts ({self._sharing.why})")
            # A tracer of torch.fx replaces nn.Module's own methods while it works: two at once would leave one behind.
            with _tracing:
                slices = _slices.setdefault(self.model, {})
                known = slices.get(of)
                if known is None or not known.fits(dit, self.model, call, width):
                    known = slices[of] = slice_signal(dit, self.model, call, width, of=of)
        except SignalError as error:
            self.record.signal = "timestep"
            logger.warning("decisions are made from the timestep itself, because %s", error)
            return lambda timestep: timestep[:, None]
        self.record.signal = SLICED[of]
        return known

    def work(self, call: ForwardCall, schedule: Schedule, key: int) -> tuple[Work, str]:
        """FLOPs by the host's cost model, or by parameters and tokens; latent frames where neither can be had."""
        try:
            if self.host.cost is not None:
                return cache(self.host.cost(self.pipeline, call.arguments, schedule, key)), "flops"
            if not self.host.moving:
                if self._sharing.uncounted:
                    raise ValueError("the parameters lie in parts here, so that nobody can count them")
                return cache(defaults.cost(self.model, self.host.dit.blocks, call.latents.shape)), "flops"
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            logger.info("%s: work is counted in latent frames: %r", self.host.name, error)
        return lambda iteration, slots, frozen=0: float(slots[1] - slots[0]), "latent frames"

    @cached_property
    def profile(self) -> Profile | None:
        """What was measured of the velocities; a file that has become unusable costs a remark."""
        settings = self.method.settings
        if settings.profile is None:
            return None
        try:
            found = read(settings.profile)
        except UsageError as error:
            self.record.remark(f"{error}; recomputes are placed without it")
            return None
        if found.host not in ("", self.host.name):
            self.record.remark(f"the profile {settings.profile} was measured on {found.host}; it is not used")
            return None
        return found


def few_enough(outer: Any, settings: Settings) -> int | None:
    """How many widths there may be where the user has not said; None: as many as there are.

    A function that is compiled for static shapes, and for more of them than torch's recompile limit, runs uncompiled
    from then on, and under `fullgraph` fails: unpatched hosts have one width, so that would be our doing.

    Args:
        outer: the DiT as the pipeline holds it.
    """
    if settings.widths is not None:
        return settings.widths
    config = getattr(sys.modules.get("torch._dynamo"), "config", None)
    if config is None or not any(_static(made, config) for made in _compiled(outer)):
        return None
    limit = config.recompile_limit if hasattr(config, "recompile_limit") else config.cache_size_limit  # torch < 2.7
    return max(1, int(limit) - SPARE)


def _compiled(outer: Any) -> Iterator[Any]:
    """What torch.compile made of a model or of modules in it."""
    if hasattr(outer, "_orig_mod"):
        yield outer
        outer = outer._orig_mod
    if isinstance(outer, nn.Module):
        yield from (each for module in outer.modules() if (each := getattr(module, "_compiled_call_impl", None)))


def _static(made: Any, config: Any) -> bool:
    """Whether it is compiled anew for every shape; True where torch does not say."""
    context = getattr(made, "dynamo_ctx", None)
    if context is None and inspect.isfunction(made):
        context = inspect.getclosurevars(made).nonlocals.get("self")
    dynamic = getattr(context, "_dynamic", False)
    return dynamic is False or (dynamic is None and not config.automatic_dynamic_shapes)
