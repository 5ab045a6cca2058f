"""The Python front door: `apply` and `patched`, for one pipeline or model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import NotApplied
from ..method import policies, predictors
from ..method.profile import read
from ..report.record import Run
from ..report.sink import sink_of
from ..settings import Settings, switched_off
from .bind import Binding
from .compiled import unwrap
from .current import Request
from .hooks import attach_ready, bindings


class Handle:
    """What `apply` returns. Attributes: run, the record (its `report` is the report of design §6)."""

    def __init__(self, run: Run, binding: Binding | None, request: Request | None) -> None:
        self.run = run
        self._binding, self._request = binding, request

    @property
    def report(self) -> dict[str, Any]:
        """The report so far."""
        return self.run.report

    def remove(self) -> None:
        """Undo `apply`; the host's attributes are the very objects they were. A second call does nothing."""
        binding, request = self._binding, self._request
        self._binding = self._request = None
        if binding is None or request is None:
            return
        binding.requests.remove(request)
        if not binding.requests:
            binding.detach()


def apply(target: Any, **settings: Any) -> Handle:
    """Accelerate one pipeline (or every pipeline that uses this DiT) until the handle is removed.

    Args:
        target: a pipeline or a DiT of a known host; pipelines that are made out of it (`from_pipe`) are meant, too.
        settings: as the options of `run`, with underscores: preset, cache_threshold, max_skip, report, strict, ...
            `SCOPE_PATCH_*` variables fill in what is not given.

    Raises UsageError for a setting or a profile that cannot be used, NotApplied where the target is of no known
    host or one of its checks failed. Under `SCOPE_PATCH=0` nothing is patched and the handle says so.
    """
    resolved = Settings.resolve(settings, os.environ)
    policies.create(resolved)
    predictors.create(resolved.predictor)
    run = Run(resolved)
    if switched_off(os.environ):
        run.reasons.append("switched off by SCOPE_PATCH=0")
        return Handle(run, None, None)
    if resolved.profile is not None:
        read(resolved.profile)
    binding = _binding_of(target, resolved.registry)
    binding.refused.clear()
    binding.guard.broken = False
    binding.agreements.forgive()
    reasons = attach_ready(binding, strict=False)
    # A pipeline needs its own entry; a DiT, any.
    own = {entry.name for entry in binding.host.videos if _is_a(target, entry.module, entry.owner)}
    if not binding.bound & (own or binding.bound):
        if not binding.requests:
            binding.detach()
        raise NotApplied("; ".join(reasons) or f"no entry of {binding.host.name} is imported as a whole")
    run.hosts.append(binding.host.name)
    sink = sink_of(run)
    if sink is not None:
        sink.tell()  # or an earlier job's report would stay until a generation has ended
    request = Request.of(run, target, None if sink is None else sink.tell)
    binding.requests.append(request)
    return Handle(run, binding, request)


@contextmanager
def patched(target: Any, **settings: Any) -> Iterator[Run]:
    """`apply` for the length of a `with` block; gives the record (`run.report`)."""
    handle = apply(target, **settings)
    try:
        yield handle.run
    finally:
        handle.remove()


def _binding_of(target: Any, registry: str | None) -> Binding:
    model = unwrap(target)
    for binding in bindings(registry).values():
        dit = binding.host.dit
        entries = any(_is_a(model, entry.module, entry.owner) for entry in binding.host.videos)
        if entries or _is_a(model, dit.module, dit.owner):
            return binding
    known = ", ".join(bindings())
    raise NotApplied(f"{type(model).__module__}.{type(model).__name__} is no pipeline or DiT of a known host ({known})")


def _is_a(thing: Any, module: str, name: str) -> bool:
    """Whether it is of the class of that name, as far as its module is imported."""
    owner = getattr(sys.modules.get(module), name, None)
    return isinstance(owner, type) and isinstance(thing, owner)
