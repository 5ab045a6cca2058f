"""Which architectures there are: the files of `registry/`, those that other packages bring by entry point, and a file
that the user names."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pkgutil
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from .. import registry
from ..errors import UsageError
from .host import Host

GROUP = "scope_patch.architectures"
logger = logging.getLogger("scope_patch")


@dataclass(frozen=True)
class Problem:
    """A registry file or plugin that could not be used, and why."""

    origin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


def load(named: str | None = None) -> tuple[list[tuple[Host, str]], list[Problem]]:
    """Every usable architecture with its origin, and what could not be read.

    Args:
        named: a registry file that the user names. Nothing else is looked for beside the script or where it is run.

    Raises UsageError for that file alone, where it cannot be used; never for ours or a plugin.
    """
    found: list[tuple[Host, str]] = []
    problems: list[Problem] = []
    for info in sorted(pkgutil.iter_modules(registry.__path__), key=lambda info: info.name):
        origin = f"{registry.__path__[0]}/{info.name}.py"
        try:
            module = importlib.import_module(f"scope_patch.registry.{info.name}")
            found.append((_checked(module.HOST, found), origin))
        except Exception as error:
            problems.append(Problem(origin, f"{type(error).__name__}: {error}"))
    for point in entry_points(group=GROUP):
        origin = f"{point.value} (entry point of {point.dist.name if point.dist else 'unknown'})"
        try:
            found.append((_checked(point.load(), found), origin))
        except (Exception, SystemExit) as error:  # a plugin that ends the process when it is imported ends nothing
            problems.append(Problem(origin, f"{type(error).__name__}: {error}"))
    if named is not None:
        try:
            found.append((_checked(_of_file(named), found), named))
        except (Exception, SystemExit) as error:
            raise UsageError(f"--registry {named} cannot be used: {type(error).__name__}: {error}") from error
    return found, problems


def architectures(named: str | None = None) -> list[tuple[Host, str]]:
    """Every usable architecture with its origin; what cannot be read is named in a warning and left out.

    Raises UsageError as `load` does.
    """
    found, problems = load(named)
    for problem in problems:
        logger.warning("registry file skipped, %s", problem)
    return found


def _of_file(path: str) -> object:
    """What a file calls HOST. Raises whatever may be wrong with it."""
    spec = importlib.util.spec_from_file_location(f"_scope_patch_registry_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no .py file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "HOST"):
        raise AttributeError("it defines no HOST; see `Add your model` in docs/patching.md")
    return module.HOST


def _checked(thing: object, found: list[tuple[Host, str]]) -> Host:
    if not isinstance(thing, Host):
        raise TypeError(f"HOST is a {type(thing).__name__}, not a scope_patch.patch.host.Host")
    for other, origin in found:
        if other.name == thing.name:
            raise ValueError(f"the name {thing.name!r} is taken by {origin}")
    return thing
