"""Which architectures there are: the files of `registry/`, and those that other packages bring by entry point."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from dataclasses import dataclass
from importlib.metadata import entry_points

from .. import registry
from .architecture import Architecture

GROUP = "scope_patch.architectures"
logger = logging.getLogger("scope_patch")


@dataclass(frozen=True)
class Problem:
    """A registry file or plugin that could not be used, and why."""

    origin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


def load() -> tuple[list[tuple[Architecture, str]], list[Problem]]:
    """Every usable architecture with its origin, and what could not be read. Never raises for a bad file."""
    found: list[tuple[Architecture, str]] = []
    problems: list[Problem] = []
    for info in sorted(pkgutil.iter_modules(registry.__path__), key=lambda info: info.name):
        origin = f"{registry.__path__[0]}/{info.name}.py"
        try:
            module = importlib.import_module(f"scope_patch.registry.{info.name}")
            found.append((_checked(module.ARCHITECTURE), origin))
        except Exception as error:
            problems.append(Problem(origin, f"{type(error).__name__}: {error}"))
    for point in entry_points(group=GROUP):
        origin = f"{point.value} (entry point of {point.dist.name if point.dist else 'unknown'})"
        try:
            found.append((_checked(point.load()), origin))
        except Exception as error:
            problems.append(Problem(origin, f"{type(error).__name__}: {error}"))
    return found, problems


def architectures() -> list[tuple[Architecture, str]]:
    """Every usable architecture with its origin; what cannot be read is named in a warning and left out."""
    found, problems = load()
    for problem in problems:
        logger.warning("registry file skipped, %s", problem)
    return found


def _checked(thing: object) -> Architecture:
    if not isinstance(thing, Architecture):
        raise TypeError(f"ARCHITECTURE is a {type(thing).__name__}, not a scope_patch.patch.architecture.Architecture")
    return thing
