"""Does the code that is here have the seams we know? Every check by name, with its verdict.

A module name proves nothing (MAGI-1's package is called `inference`), so a match is module path and class and base
classes and parameter names and structural facts, all of them.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

from . import source
from .host import Entry, Host
from .loops import Loop
from .seams import FORWARD, VIDEO, Check, Fact, Seam


def failures(checks: list[Check]) -> list[str]:
    """The failed checks as sentences."""
    return [str(check) for check in checks if not check.ok]


def check_static(host: Host, root: Path) -> list[Check]:
    """Check a checkout by its source text alone; nothing of it is imported or run."""
    checks: list[Check] = []
    trees: dict[str, ast.Module | None] = {}
    for entry in host.videos:
        for seam in host.seams(entry):
            if seam.module not in trees:
                trees[seam.module], check = _parse(root, seam.module)
                checks.append(check)
            tree = trees[seam.module]
            if tree is None:
                continue
            owner = source.find_class(tree, seam.owner)
            bases = None if owner is None else [source.last_name(base) for base in owner.bases]
            method = source.find_method(owner, seam.attribute)
            names = None if method is None else (source.parameters(method), source.positional(method))
            checks.extend(_check_seam(seam, bases, names))
            if method is not None:
                checks.extend(_check_method_text(seam, method))
        checks.extend(_check_loop(trees[entry.module], host, entry, entry.owner))
    for fact in host.all_facts:
        tree = trees[fact.module] if fact.module in trees else _parse(root, fact.module)[0]
        checks.append(_check_fact(tree, fact, fact.owner))
    return list(dict.fromkeys(checks))


def check_installed(host: Host) -> list[Check]:
    """Check what this interpreter would import, by its source text, and the versions of torch and diffusers."""
    checks = list(_check_versions(host))
    for name in dict.fromkeys(module.partition(".")[0] for module in host.modules):
        spec = importlib.util.find_spec(name) if name not in sys.modules else sys.modules[name].__spec__
        if spec is None or not spec.submodule_search_locations:
            return [*checks, Check(f"package {name} is importable", False, "not found on sys.path")]
        folders = [Path(folder) for folder in spec.submodule_search_locations]
        checks.append(Check(f"package {name} is importable", True, spec.origin or str(folders[0])))
        checks.extend(check_static(host, folders[0].parent))
    return checks


def check_live(host: Host, entry: Entry) -> list[Check]:
    """Check the imported classes of one entry: what is about to be patched, as it is now."""
    checks = list(_check_versions(host))
    seams = host.seams(entry)
    for seam in seams:
        owner = getattr(sys.modules.get(seam.module), seam.owner, None)
        mro = [base.__name__ for base in owner.__mro__] if isinstance(owner, type) else None
        function, names = None if mro is None else getattr(owner, seam.attribute, None), None
        if callable(function):
            found = inspect.signature(inspect.unwrap(function)).parameters
            names = [*found], [p.name for p in found.values() if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]
        checks.extend(_check_seam(seam, mro, names))
    for module in dict.fromkeys(seam.module for seam in seams):
        # What a loop does with an interval shows in its text alone.
        tree = _text(module)
        checks.append(Check(f"the text of {module} can be read", tree is not None))
        if tree is None:
            continue
        for seam in [seam for seam in seams if seam.module == module]:
            owner = source.find_class(tree, _own_name(module, seam.owner))
            checks.extend(_check_method_text(seam, source.find_method(owner, seam.attribute)))
        for fact in [fact for fact in host.all_facts if fact.module == module]:
            checks.append(_check_fact(tree, fact, _own_name(module, fact.owner)))
        if module == entry.module:
            checks.extend(_check_loop(tree, host, entry, _own_name(module, entry.owner)))
    return list(dict.fromkeys(checks))


def _parse(root: Path, module: str) -> tuple[ast.Module | None, Check]:
    path = root.joinpath(*module.split(".")).with_suffix(".py")
    name = f"module {module}"
    try:
        return ast.parse(path.read_text(encoding="utf-8")), Check(name, True, str(path))
    except FileNotFoundError:
        return None, Check(name, False, f"no file {path}")
    except (OSError, SyntaxError, ValueError) as error:
        return None, Check(name, False, f"{path} cannot be read: {error}")


_parsed: Callable[[str], ast.Module] = lru_cache(maxsize=16)(ast.parse)
"""Nobody writes into what it returns: every `apply` reads the same texts."""


def _text(module: str) -> ast.Module | None:
    try:
        return _parsed(inspect.getsource(sys.modules[module]))
    except (OSError, KeyError, TypeError, SyntaxError):
        return None


def _own_name(module: str, owner: str) -> str:
    """What a class calls itself, where we know it by an alias."""
    return getattr(getattr(sys.modules.get(module), owner, None), "__name__", owner)


def _check_versions(host: Host) -> Iterator[Check]:
    for name, wanted in host.versions.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Check(f"{name} {wanted}", False, "not installed")
            continue
        yield Check(f"{name} {wanted}", SpecifierSet(wanted).contains(found, prereleases=True), f"found {found}")


def _check_seam(seam: Seam, bases: list[str] | None, names: tuple[list[str], list[str]] | None) -> Iterator[Check]:
    """What a seam's class and method must be, whether they were imported or read.

    Args:
        bases: the class's, by name; None: there is no such class.
        names: (parameters of the method, those of them that cannot be given by keyword); None: there is none.
    """
    yield Check(f"class {seam.owner}", bases is not None, f"in {seam.module}")
    if bases is None:
        return
    for base in seam.bases:
        yield Check(f"{seam.owner} is a {base}", base in bases)
    method = f"{seam.owner}.{seam.attribute}"
    yield Check(f"method {method}", names is not None)
    if names is None:
        return
    found, positional = names
    missing = [wanted for wanted in seam.parameters if wanted not in found]
    order = [parameter for parameter in found if parameter in seam.parameters]  # others may stand between them
    detail = ", ".join(seam.parameters)
    if missing:
        detail = f"no parameter {', '.join(missing)} among ({', '.join(found)})"
    elif order != list(seam.parameters):
        detail = f"expected the order ({detail}), found ({', '.join(order)})"
    yield Check(f"parameters of {method}", order == list(seam.parameters), detail)
    # We call the DiT by keyword, where only some slots are forwarded or its signal is traced. Of a method that makes a
    # video, one that takes whatever comes hides what it is (somebody's wrapper).
    if seam.role in (FORWARD, VIDEO):
        wrong = [name for name in positional if name != "self"]
        detail = f"not {', '.join(wrong)}" if wrong else ""
        yield Check(f"arguments of {method} can be given by keyword", not wrong, detail)


def _check_method_text(seam: Seam, method: source.Function | None) -> Iterator[Check]:
    if method is None:
        yield Check(f"{seam.owner}.{seam.attribute} stands in the text of {seam.module}", False)
    elif seam.mentions:
        missing = [word for word in seam.mentions if word not in source.words(method)]
        detail = f"no {', '.join(missing)} in its text" if missing else ", ".join(seam.mentions)
        yield Check(f"{seam.owner}.{seam.attribute} passes on what we read", not missing, detail)


def _check_loop(tree: ast.Module | None, host: Host, entry: Entry, name: str) -> tuple[Check, ...]:
    """What the denoise loop must be like, in the text of the class that makes the video."""
    owner = source.find_class(tree, name)
    return () if owner is None else _loop_checks(host.loop_of(entry), entry, owner)


@lru_cache(maxsize=32)
def _loop_checks(loop: Loop, entry: Entry, owner: ast.ClassDef) -> tuple[Check, ...]:
    return tuple(loop.checks(entry, owner))


def _check_fact(tree: ast.Module | None, fact: Fact, name: str) -> Check:
    made = source.find_method(source.find_class(tree, name), "__init__")
    found = made is not None and source.assigns_call(made, fact.attribute, fact.made_by)
    return Check(str(fact), found, "" if found else "no such assignment in __init__")
