"""A copy of scope_patch whose hooks only say that they were armed: launching is tested without torch or a host."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT, clean_environ

STUB = """
import os, sys
from ..settings import Settings

def arm(settings=None):
    settings = settings or Settings.resolve({}, os.environ)
    loaded = "torch" if "torch" in sys.modules else "light"
    sys.stderr.write(f"ARMED {settings.policy} {settings.max_skip} {loaded}\\n")
    if os.environ.get("STUB_FAILS"):
        raise ValueError("the stub was told to fail")
"""


@dataclass
class Tree:
    """`package`: a bare checkout with stub hooks; `work`: where commands run, with an empty host package."""

    package: Path
    work: Path

    @property
    def bootstrap(self) -> str:
        return str(self.package / "scope_patch" / "bootstrap")

    def launcher(self, *arguments: str) -> list[str]:
        start = (
            f"import sys; sys.path.insert(0, {str(self.package)!r}); from scope_patch.cli import main; sys.exit(main())"
        )
        return [sys.executable, "-c", start, *arguments]

    def run(
        self, *arguments: object, python: dict[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """`scope_patch ARGUMENTS` in the work folder; `python` is added to a clean environment."""
        return subprocess.run(
            self.launcher(*map(str, arguments)),
            cwd=self.work,
            env=clean_environ(**(python or {})),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def make_tree(folder: Path) -> Tree:
    package, work = folder / "checkout", folder / "work"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "scope_patch", package / "scope_patch", ignore=ignore)
    shutil.copytree(ROOT / "registry", package / "registry", ignore=ignore)
    (package / "scope_patch" / "patch" / "attach.py").write_text(STUB)
    (work / "skyreels_v2_infer").mkdir(parents=True)
    (work / "skyreels_v2_infer" / "__init__.py").write_text("")
    return Tree(package, work)
