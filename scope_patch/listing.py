"""What there is: architectures, policies, predictors, by name and origin. Light, except for the list of predictors."""

from __future__ import annotations

from pathlib import Path

from . import plugins
from .environment import unknown
from .errors import UsageError
from .settings import Settings

_METHOD = Path(__file__).parent / "method"


def triggers(registry: str | None = None) -> list[str]:
    """The top-level packages whose import arms us, over all architectures. Imports neither torch nor a host.

    Raises UsageError where the registry file that the user names cannot be used.
    """
    from .patch.known import architectures

    return list(dict.fromkeys(name for architecture, _ in architectures(registry) for name in architecture.triggers))


def check_names(settings: Settings) -> None:
    """Raises UsageError for a policy or predictor that nobody provides.

    The predictors' own list needs torch, which `run` cannot afford: it is read only when no file has the name.
    """
    from .method import policies

    policies.create(settings)  # also reads the settings of its own
    built_in = settings.predictor.isidentifier() and _file("predictors", settings.predictor).is_file()
    if not built_in and settings.predictor not in plugins.foreign("scope_patch.predictors"):
        raise unknown("predictor", settings.predictor, _predictors())


def print_list(registry: str | None = None) -> int:
    """`list`: exit code 1 when a registry file or plugin could not be read.

    Raises UsageError, after all else is printed, in an interpreter without torch.
    """
    from .method import policies
    from .patch import known

    found, problems = known.load(registry)
    print("architectures:")
    for architecture, origin in found:
        print(f"  {architecture.name:<22} {architecture.title}")
        print(f"  {'':<22} armed by {', '.join(architecture.triggers)}; from {origin}")
    for problem in problems:
        print(f"  unreadable: {problem}")
    _print_kind("policies", policies.names())
    _print_kind("predictors", _predictors())
    return 1 if problems else 0


def _predictors() -> dict[str, str]:
    """Name -> description. Raises UsageError in an interpreter without torch, which may yet launch one that has it."""
    try:
        from .method import predictors
    except ImportError as error:
        raise UsageError(f"the predictors cannot be listed here ({error}); install torch in this Python") from None
    return predictors.names()


def _print_kind(kind: str, known: dict[str, str]) -> None:
    print(f"{kind}:")
    for name, line in known.items():
        print(f"  {name:<22} {line}")
        if _file(kind, name).is_file():  # an entry point names its distribution in the line itself
            print(f"  {'':<22} from {_file(kind, name)}")


def _file(kind: str, name: str) -> Path:
    return _METHOD / kind / f"{name.replace('-', '_')}.py"
