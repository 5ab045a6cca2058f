"""Waiting for hosts to be imported, and attaching to them the moment their last module is there."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import wrapt

from ..catalogue import usable_hosts
from ..errors import NotApplied
from ..method import policies, predictors
from ..report import sink
from ..report.record import Run
from ..settings import Settings, switched_off
from .bind import Binding
from .current import Request

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
        _armed = Request.of(run, tell=sink.arm(run).tell)
        for binding in bindings(settings.registry).values():
            binding.requests.append(_armed)
            for module in binding.host.modules:
                wrapt.register_post_import_hook(_when_imported(binding, _armed), module)
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


def _when_imported(binding: Binding, request: Request) -> Callable[[Any], None]:
    """A post-import hook; whatever goes wrong in it must not break the host's import, unless strict."""

    def imported(module: Any) -> None:
        strict = request.run.settings.strict
        try:
            _imported.add(module.__name__)
            _say(request, attach_ready(binding, strict))
        except Exception as error:
            if strict:
                raise
            logger.warning("%s runs unpatched: attaching failed", binding.host.name, exc_info=True)
            _say(request, [f"{binding.host.name}: attaching failed: {error!r}"])

    return imported


def _say(request: Request, reasons: list[str]) -> None:
    """For the report, at once: a worker may end without any word."""
    request.run.reasons.extend(reasons)
    if reasons:
        request.tell()
