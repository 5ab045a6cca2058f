"""The solver's own methods as seams: loops of several hosts, and several of one host's, share its class.

Before it steps, skipped steps may be taken again; behind it, the loop may have gone on.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bind import Binding
    from .generation import Generation

STEP = "step"
GIVEN = ("model_output", "timestep", "sample")
"""What a diffusers scheduler's `step` is called with."""


def is_solver(kind: Any) -> bool:
    """Whether objects of this class step as a diffusers scheduler does, as far as its signature says."""
    step = getattr(kind, STEP, None)
    try:
        names = list(inspect.signature(step).parameters) if callable(step) else []
    except (TypeError, ValueError):  # of no signature
        return False
    return tuple(names[1 : 1 + len(GIVEN)]) == GIVEN


def wrap_solver(binding: Binding, owner: type, name: str) -> None:
    """Wrap a method of a solver's class, once, whatever loops it serves."""
    binding.wrap(owner, name, partial(called_solver, binding, name))


def called_solver(binding: Binding, name: str, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """A method of a solver is called: skipped steps may be taken again before it steps, and the loop may have gone on
    behind it. Returns what the host gets."""
    found = binding.live  # once: there are as many steps as latent frames
    if found is None or found.stepping:  # a class whose base is wrapped, too, is one solver
        return wrapped(*args, **kwargs)
    found.stepping = True
    try:
        return _called(binding, found, name, wrapped, instance, args, kwargs)
    finally:
        found.stepping = False


def _called(binding: Binding, found: Generation, name: str, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    replays = name == STEP and found.takes_again
    if replays:
        latents = binding.guard(found, lambda: _before_step(found, wrapped, instance, args, kwargs))
        if latents is not None and len(args) > 2:
            args = (*args[:2], latents, *args[3:])
        elif latents is not None:
            kwargs = {**kwargs, "sample": latents}
    result = wrapped(*args, **kwargs)
    if replays or found.loop.joint:
        binding.guard(found, lambda: _after_call(found, name, instance, result))
    return result


def _before_step(generation: Generation, wrapped: Any, solver: Any, args: Any, kwargs: Any) -> Any:
    """The latents that a solver is to get; None: its own."""
    session = generation.session
    if session is None or session.replays is None:
        return None
    given = {**dict(zip(GIVEN, args, strict=False)), **kwargs}
    step = getattr(wrapped, "__func__", None)
    if step is None or not {*GIVEN} <= given.keys():
        session.replays.give_up(f"{type(solver).__name__}.{STEP} is called in a way that we do not know")
        return None
    return session.step(step, solver, given["model_output"], given["sample"])


def _after_call(generation: Generation, name: str, solver: Any, result: Any) -> None:
    session = generation.session
    if name == STEP and session is not None:
        session.stepped(solver, result[0] if isinstance(result, tuple) else getattr(result, "prev_sample", result))
    generation.loop.told(generation, name, solver)
