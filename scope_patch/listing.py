"""What there is: architectures, policies, predictors, by name and origin. Light, except for the list of predictors."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from . import plugins
from .environment import unknown
from .errors import UsageError
from .settings import Settings


def triggers(registry: str | None = None) -> list[str]:
    """The top-level packages whose import arms us, over all architectures. Imports neither torch nor a host.

    Raises UsageError where the registry file that the user names cannot be used.
    """
    from .patch.known import architectures

    return list(dict.fromkeys(name for architecture, _ in architectures(registry) for name in architecture.triggers))


def check_names(settings: Settings) -> None:
    """Raises UsageError for a policy or predictor that nobody provides.

    What the predictors are needs torch, which `run` cannot afford: that is read only when nobody has the name.
    """
    from .method import policies, predictors

    policies.create(settings)  # also reads the settings of its own
    if settings.predictor not in {**predictors.BUILT_IN, **plugins.foreign(predictors.GROUP)}:
        raise unknown("predictor", settings.predictor, _predictors())


def print_list(registry: str | None = None) -> int:
    """`list`: exit code 1 when a registry file or plugin could not be read.

    Raises UsageError, after all else is printed, in an interpreter without torch.
    """
    from .method import policies, predictors
    from .patch import known

    found, problems = known.load(registry)
    print("architectures:")
    for architecture, origin in found:
        print(f"  {architecture.name:<22} {architecture.title}")
        print(f"  {'':<22} armed by {', '.join(architecture.triggers)}; from {origin}")
    for problem in problems:
        print(f"  unreadable: {problem}")
    _print_kind("policies", policies.names(), policies.BUILT_IN)
    _print_kind("predictors", _predictors(), predictors.built_in())
    return 1 if problems else 0


def _predictors() -> dict[str, str]:
    """Name -> description. Raises UsageError in an interpreter without torch, which may yet launch one that has it."""
    from .method import predictors

    try:
        return predictors.names()
    except ImportError as error:
        raise UsageError(f"the predictors cannot be listed here ({error}); install torch in this Python") from None


def _print_kind(kind: str, known: dict[str, str], built_in: Mapping[str, type]) -> None:
    print(f"{kind}:")
    for name, line in known.items():
        print(f"  {name:<22} {line}")
        if name in built_in:  # an entry point names its distribution in the line itself
            print(f"  {'':<22} from {sys.modules[built_in[name].__module__].__file__}")
