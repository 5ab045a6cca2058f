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
from .architecture import FORWARD, GENERATION, SCHEDULE, Architecture, Fact, Seam
from .loops import ScheduleLoop

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
        checks.append(_check_fact(tree, fact, fact.owner))
    return _once(checks)


def _check_fact(tree: ast.Module | None, fact: Fact, name: str) -> Check:
    owner = source.find_class(tree, name) if tree else None
    made = source.find_method(owner, "__init__") if owner else None
    found = made is not None and source.assigns_call(made, fact.attribute, fact.made_by)
    return Check(str(fact), found, "" if found else "no such assignment in __init__")


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
            found = inspect.signature(inspect.unwrap(function)).parameters
            checks.append(_check_parameters(seam, list(found)))
            fixed = [p.name for p in found.values() if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]
            checks.extend(_check_keywords(seam, fixed))
    texts = {seam.module: _text(seam.module) for seam in seams}
    for module, tree in texts.items():
        # What a loop does with an interval shows in its text alone.
        checks.append(Check(f"the text of {module} can be read", tree is not None))
    for seam in seams:
        tree = texts[seam.module]
        if tree is not None:
            checks.extend(_check_text_facts(tree, seam, _schedule_name(seams), _own_name(seam.module, seam.owner)))
    for fact in architecture.facts:
        tree = texts.get(fact.module)
        if tree is not None:
            checks.append(_check_fact(tree, fact, _own_name(fact.module, fact.owner)))
    return _once(checks)


def _text(module: str) -> ast.Module | None:
    try:
        return ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, KeyError, TypeError, SyntaxError):
        return None


def _own_name(module: str, owner: str) -> str:
    """What a class calls itself, where we know it by an alias."""
    return getattr(getattr(sys.modules.get(module), owner, None), "__name__", owner)


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
    yield from _check_keywords(seam, source.positional(method))
    yield from _check_text_facts(tree, seam, schedule, seam.owner)


def _check_text_facts(tree: ast.Module, seam: Seam, schedule: str, name: str) -> Iterator[Check]:
    owner = source.find_class(tree, name)
    method = source.find_method(owner, seam.attribute) if owner else None
    if owner is None or method is None:
        yield Check(f"{seam.owner}.{seam.attribute} stands in the text of {seam.module}", False)
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
    if seam.role == GENERATION and schedule:
        # Anywhere in the class: the loop position is known from nothing else.
        indexed = source.indexes_result(owner, schedule, INTERVALS)
        yield Check(f"{seam.owner} indexes the intervals of {schedule}", indexed)
        loops = [ScheduleLoop(found, schedule, INTERVALS) for found in source.methods(owner)]
        counted = all(loop.by_its_counter for loop in loops)
        yield Check(f"{seam.owner} reads an interval in its loop over them, by the loop counter", counted)
        yield Check(f"{seam.owner} cuts latents and timesteps by the interval", all(loop.cuts_both for loop in loops))


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


def _check_keywords(seam: Seam, positional: list[str]) -> Iterator[Check]:
    if seam.role == FORWARD:  # we call it by keyword, where only some slots are forwarded or its signal is traced
        wrong = [name for name in positional if name != "self"]
        detail = f"not {', '.join(wrong)}" if wrong else ""
        yield Check(f"arguments of {seam.owner}.{seam.attribute} can be given by keyword", not wrong, detail)


def _schedule_name(seams: tuple[Seam, ...]) -> str:
    return next((seam.attribute for seam in seams if seam.role == SCHEDULE), "")


def _once(checks: list[Check]) -> list[Check]:
    return list(dict.fromkeys(checks))
