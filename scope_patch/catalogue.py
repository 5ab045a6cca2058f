"""What there is: the hosts (files of `registry/`, entry points of other packages, a file that the user names), policies
and predictors, by name and origin. Imports neither torch nor a host."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from . import registry
from .errors import UsageError, unknown
from .patch.host import PAGE, Host
from .settings import Settings

VARIABLE = "HOST"
"""What a registry file defines."""
logger = logging.getLogger("scope_patch")


def read_hosts(named: str | None = None) -> tuple[list[tuple[Host, str]], list[str]]:
    """Every usable host with its origin; and of each registry file or plugin that cannot be used, its origin and why.

    Args:
        named: a registry file that the user names. Nothing else is looked for beside the script or where it is run.

    Raises UsageError for that file alone, where it cannot be used; never for ours or a plugin.
    """
    found: list[tuple[Host, str]] = []
    problems: list[str] = []
    for origin, load in _sources(named):
        try:
            host = load()
            if not isinstance(host, Host):
                kind = f"{Host.__module__}.{Host.__qualname__}"
                raise TypeError(f"{VARIABLE} is a {type(host).__name__}, not a {kind}; {PAGE}")
            for other, taken_by in found:
                if other.name == host.name:
                    raise ValueError(f"the name {host.name!r} is taken by {taken_by}")
        except (Exception, SystemExit) as error:  # one that ends the process when it is imported ends nothing
            if origin == named:
                raise UsageError(f"--registry {named} cannot be used: {_reason(error)}") from error
            problems.append(f"{origin}: {_reason(error)}")
        else:
            found.append((host, origin))
    return found, problems


def _sources(named: str | None) -> Iterator[tuple[str, Callable[[], object]]]:
    """(origin, what loads the host from there); nothing is loaded yet."""
    for info in sorted(pkgutil.iter_modules(registry.__path__), key=lambda info: info.name):
        module = f"scope_patch.registry.{info.name}"
        yield f"{registry.__path__[0]}/{info.name}.py", partial(_defined, importlib.import_module, module)
    for point in entry_points(group="scope_patch.architectures"):
        yield f"{point.value} (entry point of {point.dist.name if point.dist else 'unknown'})", point.load
    if named is not None:
        yield named, partial(_defined, _module_of, named)


def usable_hosts(named: str | None = None) -> list[tuple[Host, str]]:
    """Every usable host with its origin; the others are named in a warning. Raises UsageError as `read_hosts` does."""
    found, problems = read_hosts(named)
    for problem in problems:
        logger.warning("registry file skipped, %s", problem)
    return found


def check_names(settings: Settings) -> None:
    """Raises UsageError for a policy or predictor that nobody provides."""
    from .method import describe, foreign, policies, predictors

    policies.create(settings)  # also reads the settings of its own
    if settings.predictor not in {**predictors.BUILT_IN, **foreign(predictors.GROUP)}:
        raise unknown("predictor", settings.predictor, describe(predictors.BUILT_IN, predictors.GROUP))


def print_list(named: str | None = None) -> int:
    """`list`: exit code 1 when a registry file or plugin could not be read."""
    from .method import describe, policies, predictors

    found, problems = read_hosts(named)
    print("hosts:")
    for host, origin in found:
        print(f"  {host.name:<22} {host.title}")
        print(f"  {'':<22} armed by {', '.join(host.triggers)}; from {origin}")
    for problem in problems:
        print(f"  unreadable: {problem}")
    _print_kind("policies", describe(policies.BUILT_IN, policies.GROUP), policies.BUILT_IN)
    _print_kind("predictors", describe(predictors.BUILT_IN, predictors.GROUP), predictors.BUILT_IN)
    return 1 if problems else 0


def _print_kind(kind: str, lines: Mapping[str, str], built_in: Mapping[str, Any]) -> None:
    print(f"{kind}:")
    for name, line in lines.items():
        print(f"  {name:<22} {line}")
        if name in built_in:  # an entry point names its distribution in the line itself
            print(f"  {'':<22} from {inspect.getfile(built_in[name])}")


def _module_of(path: str) -> object:
    """A file as a module of its own. Raises whatever may be wrong with it."""
    spec = importlib.util.spec_from_file_location(f"_scope_patch_registry_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no .py file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _defined(load: Callable[[str], object], name: str) -> object:
    module = load(name)
    if not hasattr(module, VARIABLE):
        old = "ARCHITECTURE, which was read before, but " if hasattr(module, "ARCHITECTURE") else ""
        raise AttributeError(f"it defines {old}no {VARIABLE}; {PAGE}")
    return getattr(module, VARIABLE)


def _reason(error: BaseException) -> str:
    """What went wrong. Where an answer is left out, Python's own sentence has it between words of its trade."""
    if left_out := re.search(r"__init__\(\) missing \d+ required .*arguments?: (.+)", str(error)):
        return f"it leaves out {left_out[1]}; {PAGE}"
    return f"{type(error).__name__}: {error}"
