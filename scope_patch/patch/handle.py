"""The Python front door: `apply` and `patched`, for one pipeline or model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import NotApplied
from ..method import policies, predictors
from ..method.profile import read
from ..report.record import Run
from ..report.sink import write_or_warn
from ..settings import Settings, switched_off
from .architecture import FORWARD, GENERATION
from .bind import Binding
from .hooks import attach_ready, bindings
from .scope import Scope, unwrap


class Handle:
    """What `apply` returns. Attributes: run, the record (its `report` is the report of design §6)."""

    def __init__(self, run: Run, binding: Binding | None, scope: Scope | None) -> None:
        self.run = run
        self._binding, self._scope = binding, scope

    @property
    def report(self) -> dict[str, Any]:
        """The report so far."""
        return self.run.report

    def remove(self) -> None:
        """Undo `apply`; the host's attributes are the very objects they were. A second call does nothing."""
        binding, scope = self._binding, self._scope
        self._binding = self._scope = None
        if binding is None or scope is None:
            return
        binding.scopes.remove(scope)
        if not binding.scopes:
            binding.detach()


def apply(target: Any, **settings: Any) -> Handle:
    """Accelerate one pipeline (or every pipeline that uses this DiT) until the handle is removed.

    Args:
        target: a pipeline or a DiT of a known architecture.
        settings: as the options of `run`, with underscores: preset, cache_threshold, max_skip, report, strict, ...
            `SCOPE_PATCH_*` variables fill in what is not given.

    Raises UsageError for a setting or a profile that cannot be used, NotApplied where the target is of no known
    architecture or one of its checks failed. Under `SCOPE_PATCH=0` nothing is patched and the handle says so.
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
    binding.quorum.forgive()
    reasons = attach_ready(binding, strict=False)
    if not binding.bound:
        raise NotApplied("; ".join(reasons) or f"no group of {binding.architecture.name} is imported as a whole")
    tell = None if resolved.report is None else partial(write_or_warn, Path(resolved.report), run)
    scope = Scope.of(run, target, tell)
    binding.scopes.append(scope)
    run.hosts.append(binding.architecture.name)
    return Handle(run, binding, scope)


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
        for seams in binding.architecture.groups.values():
            for seam in seams:
                owner = getattr(sys.modules.get(seam.module), seam.owner, None)
                if isinstance(owner, type) and seam.role in (GENERATION, FORWARD) and isinstance(model, owner):
                    return binding
    known = ", ".join(bindings())
    raise NotApplied(
        f"{type(model).__module__}.{type(model).__name__} is no pipeline or DiT of a known architecture ({known})"
    )
