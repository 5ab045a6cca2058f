"""`doctor`: what matches here, which check failed, can injection work. May import torch and the hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from .catalogue import read_hosts
from .errors import UsageError
from .launch import BOOTSTRAP, child_environment
from .settings import Settings, switched_off


def print_doctor(repo: str | None, registry: str | None = None) -> int:
    """Print everything; 0 when at least one host passes all its checks (that of the file, where one is named), else 1.

    Raises UsageError when `repo` is no directory, or `registry` no registry file.
    """
    if repo is not None and not Path(repo).is_dir():
        raise UsageError(f"--repo {repo} is not a directory; give the root of a clone")
    _print_interpreter()
    from .patch import signature

    any_match = False
    found, problems = read_hosts(registry)
    for host, origin in found:
        print(f"{host.name}: {host.title} ({origin})")
        entries: dict[str, list[str]] = {}
        for entry in host.videos:
            entries.setdefault(str(host.loop_of(entry)), []).append(entry.name)
        for loop, names in entries.items():
            print(f"  loop of {'; '.join(names)}: {loop}")
        checks = signature.check_installed(host) if repo is None else signature.check_static(host, Path(repo))
        for check in checks:
            print(f"  {'ok    ' if check.ok else 'FAILED'} {check.name}{': ' if check.detail else ''}{check.detail}")
        failed = sum(not check.ok for check in checks)
        print(f"  -> {'matches' if not failed else f'does not match: {failed} of {len(checks)} checks failed'}")
        any_match |= bool(checks) and not failed and registry in (None, origin)
    for problem in problems:
        print(f"unreadable: {problem}")
    return 0 if any_match else 1


def _print_interpreter() -> None:
    """What it has, and a line for each thing that speaks for or against getting into a child of it."""
    print(f"interpreter: {sys.executable} (Python {sys.version.split()[0]})")
    for name in ("torch", "wrapt", "packaging", "diffusers"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = "not installed"
        print(f"  {name:<10} {version}")
    print("injection:")
    flags = {"-I": sys.flags.isolated, "-E": sys.flags.ignore_environment, "-S": sys.flags.no_site}
    blocking = [flag for flag, is_set in flags.items() if is_set]
    if blocking:
        print(
            f"  this Python runs with {', '.join(blocking)}; a command started like that cannot be patched by `run`: "
            "leave the flag out, or use `import scope_patch.auto`"
        )
    if switched_off(os.environ):
        print("  SCOPE_PATCH=0 is set: everything is switched off")
    elif _probe():
        print("  tried: a child of this Python reads our sitecustomize, unless it is given -I, -E or -S")
    else:
        print("  tried: a child of this Python does NOT read our sitecustomize; use `import scope_patch.auto`")
    print(f"  PYTHONPATH: {os.environ.get('PYTHONPATH') or '(not set)'}")
    hidden = PathFinder.find_spec("sitecustomize", [entry for entry in sys.path if entry != BOOTSTRAP])
    if hidden is not None:
        print(f"  a sitecustomize is there already and is run after ours: {hidden.origin}")


def _probe() -> bool:
    """Start a child the way `run` does and ask it whether our finder is there."""
    name = "_scope_patch_probe"
    environ = child_environment(Settings.resolve({}, {}), os.environ, [name])
    question = f"import sys; print(any(getattr(f, 'names', None) == ({name!r},) for f in sys.meta_path))"
    answer = subprocess.run([sys.executable, "-c", question], env=environ, capture_output=True, text=True, check=False)
    return answer.stdout.split()[-1:] == ["True"]
