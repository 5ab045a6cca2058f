"""What there is: architectures, policies, predictors, by name and origin. Light until `predictors` needs torch."""

from __future__ import annotations

from pathlib import Path

from . import plugins
from .environment import nearest
from .errors import UsageError
from .settings import Settings


def triggers() -> list[str]:
    """The top-level packages whose import arms us, over all architectures. Imports neither torch nor a host."""
    from .patch.known import architectures

    return list(dict.fromkeys(name for architecture, _ in architectures() for name in architecture.triggers))


def check_names(settings: Settings) -> None:
    """Raises UsageError for a policy or predictor that nobody provides.

    The predictors' own list needs torch, which `run` cannot afford: it is read only when no file has the name.
    """
    from .method import policies

    if settings.policy not in policies.names():
        raise UsageError(f"there is no policy {settings.policy!r}{nearest(settings.policy, policies.names())}")
    folder = Path(__file__).parent / "method" / "predictors"
    if settings.predictor.isidentifier() and (folder / f"{settings.predictor}.py").is_file():
        return
    if settings.predictor in plugins.foreign("scope_patch.predictors"):
        return
    from .method import predictors

    raise UsageError(f"there is no predictor {settings.predictor!r}{nearest(settings.predictor, predictors.names())}")


def print_list() -> int:
    """`list`: one line each. Exit code 1 when a registry file or plugin could not be read."""
    from .method import policies, predictors
    from .patch import known as known_architectures

    found, problems = known_architectures.load()
    print("architectures:")
    for architecture, origin in found:
        print(f"  {architecture.name:<22} {architecture.title}")
        print(f"  {'':<22} armed by {', '.join(architecture.triggers)}; from {origin}")
    for kind, known, package in (
        ("policies", policies.names(), policies),
        ("predictors", predictors.names(), predictors),
    ):
        print(f"{kind}:")
        for name, line in known.items():
            print(f"  {name:<22} {line}")
            if name in package.BUILT_IN:
                print(f"  {'':<22} from {Path(str(package.__file__)).parent / name}.py")
    for problem in problems:
        print(f"unreadable: {problem}")
    return 1 if problems else 0
