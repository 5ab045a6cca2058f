"""Attaching: to every host the moment its last module is imported (`arm`), or to one pipeline or model (`apply`)."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import wrapt

from ..catalogue import usable_hosts
from ..errors import NotApplied
from ..method import policies, predictors
from ..method.profile import read
from ..report import sink
from ..report.record import Run
from ..settings import Settings, switched_off
from .bind import Binding
from .guard import Request, unwrap
from .host import Dit, Entry

logger = logging.getLogger("scope_patch")

_bindings: dict[str, Binding] = {}
"""One per host and process, whoever asks: seams are never wrapped twice."""
_files: set[str] = set()
"""Where they come from."""
_armed: Request | None = None
_imported: set[str] = set()


def bindings(registry: str | None = None) -> dict[str, Binding]:
    """Every known host's binding, by name; made at the first call, attached to nothing by that.

    Args:
        registry: a file with one more, read once a process.

    Raises UsageError where it cannot be used.
    """
    if not _bindings or (registry is not None and registry not in _files):
        for host, origin in usable_hosts(registry):
            _bindings.setdefault(host.name, Binding(host))
            _files.add(origin)
    return _bindings


def arm(settings: Settings | None = None) -> Run | None:
    """Attach to every known host as it is imported (what `run` and `import scope_patch.auto` do).

    Args:
        settings: None reads them from the environment.

    Returns the record that will be filled, or None under the kill switch. A second call changes nothing.
    """
    global _armed
    if switched_off(os.environ):
        return None
    if _armed is None:
        settings = settings or Settings.resolve({}, os.environ)
        policies.create(settings)
        predictors.create(settings.predictor)  # an unknown name must be said now, not in the middle of a generation
        run = Run(settings)
        _armed = Request(run, tell=sink.arm(run).tell)
        for binding in bindings(settings.registry).values():
            binding.requests.append(_armed)
            for module in binding.host.modules:
                wrapt.register_post_import_hook(partial(_imported_now, binding, _armed), module)
    return _armed.run


def attach_ready(binding: Binding, strict: bool) -> list[str]:
    """Attach the entries whose modules are all imported. Returns why one was left alone; `strict` raises."""
    reasons = []
    for entry in binding.host.videos:
        known = entry.name in binding.bound | binding.refused
        if known or not all(_executed(seam.module) for seam in binding.host.seams(entry)):
            continue
        try:
            binding.attach(entry)
        except NotApplied as reason:
            if strict:
                raise
            logger.warning("runs unpatched: %s", reason)
            reasons.append(str(reason))
    return reasons


def _executed(name: str) -> bool:
    """Whether a module has run to its end. While its post-import hooks run, its spec still says otherwise."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return name in _imported or (name in sys.modules and not getattr(spec, "_initializing", False))


def _imported_now(binding: Binding, request: Request, module: Any) -> None:
    """A post-import hook; whatever goes wrong in it must not break the host's import, unless strict."""
    strict = request.run.settings.strict
    try:
        _imported.add(module.__name__)
        _say(request, attach_ready(binding, strict))
    except Exception as error:
        if strict:
            raise
        logger.warning("%s runs unpatched: attaching failed", binding.host.name, exc_info=True)
        _say(request, [f"{binding.host.name}: attaching failed: {error!r}"])


def _say(request: Request, reasons: list[str]) -> None:
    """For the report, at once: a worker may end without any word."""
    request.run.reasons.extend(reasons)
    if reasons:
        request.tell()


class Handle:
    """What `apply` returns. Attributes: run, the record (its `report` is the report of design §6)."""

    def __init__(self, run: Run, binding: Binding | None, request: Request | None) -> None:
        self.run, self._binding, self._request = run, binding, request

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
    own = {entry.name for entry in binding.host.videos if _is_a(target, entry)}
    if not binding.bound & (own or binding.bound):
        if not binding.requests:
            binding.detach()
        raise NotApplied("; ".join(reasons) or f"no entry of {binding.host.name} is imported as a whole")
    run.hosts.append(binding.host.name)
    reporter = sink.sink_of(run)
    if reporter is not None:
        reporter.tell()  # or an earlier job's report would stay until a generation has ended
    request = Request(run, target, None if reporter is None else reporter.tell)
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
        places: tuple[Entry | Dit, ...] = (*binding.host.videos, binding.host.dit)
        if any(_is_a(model, place) for place in places):
            return binding
    known = ", ".join(bindings())
    raise NotApplied(f"{type(model).__module__}.{type(model).__name__} is no pipeline or DiT of a known host ({known})")


def _is_a(thing: Any, place: Entry | Dit) -> bool:
    """Whether it is of that class, as far as its module is imported."""
    owner = getattr(sys.modules.get(place.module), place.owner, None)
    return isinstance(owner, type) and isinstance(thing, owner)
