"""Does the code that is here have the seams we know? Every check by name, with its verdict.

A module name proves nothing (MAGI-1's package is called `inference`), so a match is module path and class and base
classes and parameter names and structural facts, all of them.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

from . import source
from .architecture import GENERATION, SCHEDULE, Architecture, Seam

SCHEDULE_PARTS = 4
INTERVALS = 3
"""Position of the intervals among the four things a schedule function returns."""


@dataclass(frozen=True)
class Check:
    """One question to the host's code, whether the answer is the expected one, and what was found."""

    name: str
    ok: bool
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


def failures(checks: list[Check]) -> list[str]:
    """The failed checks as sentences."""
    return [str(check) for check in checks if not check.ok]


def check_static(architecture: Architecture, root: Path) -> list[Check]:
    """Check a checkout by its source text alone; nothing of it is imported or run."""
    checks: list[Check] = []
    for group, seams in architecture.groups.items():
        trees: dict[str, ast.Module | None] = {}
        for seam in seams:
            if seam.module not in trees:
                trees[seam.module], check = _parse(root, seam.module)
                checks.append(check)
            tree = trees[seam.module]
            if tree is not None:
                checks.extend(_check_seam_text(tree, seam, group, _schedule_name(seams)))
    for fact in architecture.facts:
        tree, _ = _parse(root, fact.module)
        owner = source.find_class(tree, fact.owner) if tree else None
        made = source.find_method(owner, "__init__") if owner else None
        found = made is not None and source.assigns_call(made, fact.attribute, fact.made_by)
        checks.append(Check(str(fact), found, "" if found else "no such assignment in __init__"))
    return _once(checks)


def check_installed(architecture: Architecture) -> list[Check]:
    """Check what this interpreter would import, by its source text, and the versions of torch and diffusers."""
    checks = list(_check_versions(architecture))
    for name in dict.fromkeys(module.partition(".")[0] for module in architecture.modules):
        spec = importlib.util.find_spec(name) if name not in sys.modules else sys.modules[name].__spec__
        if spec is None or not spec.submodule_search_locations:
            return [*checks, Check(f"package {name} is importable", False, "not found on sys.path")]
        folders = [Path(folder) for folder in spec.submodule_search_locations]
        checks.append(Check(f"package {name} is importable", True, spec.origin or str(folders[0])))
        checks.extend(check_static(architecture, folders[0].parent))
    return checks


def check_live(architecture: Architecture, group: str) -> list[Check]:
    """Check the imported classes of one group: what is about to be patched, as it is now."""
    checks = list(_check_versions(architecture))
    seams = architecture.groups[group]
    for seam in seams:
        owner = getattr(sys.modules.get(seam.module), seam.owner, None)
        known = isinstance(owner, type)
        checks.append(Check(f"class {seam.owner}", known, f"in {seam.module}"))
        if not isinstance(owner, type):
            continue
        mro = {base.__name__ for base in owner.__mro__}
        for base in seam.bases:
            checks.append(Check(f"{seam.owner} is a {base}", base in mro))
        function = getattr(owner, seam.attribute, None)
        checks.append(Check(f"method {seam.owner}.{seam.attribute}", callable(function)))
        if callable(function):
            names = list(inspect.signature(inspect.unwrap(function)).parameters)
            checks.append(_check_parameters(seam, names))
    for seam, tree in _texts(seams):
        checks.extend(_check_text_facts(tree, seam, _schedule_name(seams)))
    return _once(checks)


def _texts(seams: tuple[Seam, ...]) -> Iterator[tuple[Seam, ast.Module]]:
    for seam in seams:
        try:
            yield seam, ast.parse(inspect.getsource(sys.modules[seam.module]))
        except (OSError, KeyError, TypeError, SyntaxError):
            continue  # no text to read (a frozen or generated module): the same facts are checked when they happen


def _check_versions(architecture: Architecture) -> Iterator[Check]:
    for name, wanted in architecture.versions.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Check(f"{name} {wanted}", False, "not installed")
            continue
        yield Check(f"{name} {wanted}", SpecifierSet(wanted).contains(found, prereleases=True), f"found {found}")


def _parse(root: Path, module: str) -> tuple[ast.Module | None, Check]:
    path = root.joinpath(*module.split(".")).with_suffix(".py")
    name = f"module {module}"
    try:
        return ast.parse(path.read_text(encoding="utf-8")), Check(name, True, str(path))
    except FileNotFoundError:
        return None, Check(name, False, f"no file {path}")
    except (OSError, SyntaxError, ValueError) as error:
        return None, Check(name, False, f"{path} cannot be read: {error}")


def _check_seam_text(tree: ast.Module, seam: Seam, group: str, schedule: str) -> Iterator[Check]:
    owner = source.find_class(tree, seam.owner)
    yield Check(f"class {seam.owner}", owner is not None, f"in {seam.module}")
    if owner is None:
        return
    for base in seam.bases:
        yield Check(f"{seam.owner} is a {base}", base in source.base_names(owner))
    method = source.find_method(owner, seam.attribute)
    yield Check(f"method {seam.owner}.{seam.attribute}", method is not None)
    if method is None:
        return
    yield _check_parameters(seam, source.parameters(method))
    yield from _check_text_facts(tree, seam, schedule)


def _check_text_facts(tree: ast.Module, seam: Seam, schedule: str) -> Iterator[Check]:
    owner = source.find_class(tree, seam.owner)
    method = source.find_method(owner, seam.attribute) if owner else None
    if method is None:
        return
    if seam.role == SCHEDULE:
        lengths = source.returned_lengths(method)
        fine = lengths == {SCHEDULE_PARTS}
        yield Check(
            f"{seam.owner}.{seam.attribute} returns {SCHEDULE_PARTS} things", fine, "" if fine else f"found {lengths}"
        )
    if seam.mentions:
        missing = [word for word in seam.mentions if word not in source.words(method)]
        detail = f"no {', '.join(missing)} in its text" if missing else ", ".join(seam.mentions)
        yield Check(f"{seam.owner}.{seam.attribute} passes on what we read", not missing, detail)
    if seam.role == GENERATION and schedule and owner is not None:
        # Anywhere in the class: the loop position is known from nothing else.
        indexed = source.indexes_result(owner, schedule, INTERVALS)
        yield Check(f"{seam.owner} indexes the intervals of {schedule}", indexed)


def _check_parameters(seam: Seam, found: list[str]) -> Check:
    """The expected names must all be there in the expected order; others may stand between them."""
    name = f"parameters of {seam.owner}.{seam.attribute}"
    missing = [wanted for wanted in seam.parameters if wanted not in found]
    if missing:
        return Check(name, False, f"no parameter {', '.join(missing)} among ({', '.join(found)})")
    order = [parameter for parameter in found if parameter in seam.parameters]
    if order != list(seam.parameters):
        return Check(name, False, f"expected the order ({', '.join(seam.parameters)}), found ({', '.join(order)})")
    return Check(name, True, ", ".join(seam.parameters))


def _schedule_name(seams: tuple[Seam, ...]) -> str:
    return next((seam.attribute for seam in seams if seam.role == SCHEDULE), "")


def _once(checks: list[Check]) -> list[Check]:
    return list(dict.fromkeys(checks))
