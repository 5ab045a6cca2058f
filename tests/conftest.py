"""Helpers for everything that needs a second process, for the clones of the official repositories, for `compare`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# One thread a process, also in those that tests start: there is one process a core, and sums depend on no machine.
os.environ["OMP_NUM_THREADS"] = "1"

pytest.register_assert_rewrite("laws")
settings.register_profile("house", deadline=None)  # a busy machine is no failure
settings.load_profile("house")

ROOT = Path(__file__).resolve().parent.parent
OTHER_DIFFUSERS = os.environ.get("CI_DIFFUSERS", "")
"""A folder with another release of diffusers alone (.ci/diffusers); tests and the processes they start import that."""
if OTHER_DIFFUSERS:
    sys.path.insert(0, OTHER_DIFFUSERS)

LONGEST = (
    "official_magi", "official_skyreels", "tune", "ranks_sharded", "jobs", "official_infinity", "magi_demo", "laws",
    "frozen", "no_sync", "drift", "ranks", "physics", "official_longcat",
)  # fmt: skip
"""Files that take longest, whatever the number of their tests: begun last, they would leave other processes idle."""

Command = Callable[..., "tuple[int, str, str]"]
Runner = Callable[..., "subprocess.CompletedProcess[str]"]


def clean_environ(**extra: str) -> dict[str, str]:
    """This process's environment without our variables and without PYTHONPATH; `extra` on top."""
    ours = ("SCOPE_PATCH", "_SCOPE_PATCH")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours) and not k.startswith("PYTHON")}
    if OTHER_DIFFUSERS:
        extra["PYTHONPATH"] = os.pathsep.join(filter(None, [OTHER_DIFFUSERS, extra.get("PYTHONPATH", "")]))
    return {**kept, **extra}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))  # the rest in its order


@pytest.fixture(scope="session")
def run_process() -> Runner:
    """Run a command in a clean environment; keywords `env` (added to it), `cwd`, `timeout`, `input`."""

    def run(
        command: list[str], env: dict[str, str] | None = None, timeout: float = 120, **more: object
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            env=clean_environ(**(env or {})),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **more,
        )

    return run


@pytest.fixture(scope="session")
def run_python(run_process: Runner) -> Runner:
    """`run_python("-c", "…")`: this interpreter in a clean environment, started in the repository root."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        options.setdefault("cwd", ROOT)
        return run_process([sys.executable, *arguments], **options)

    return run


@pytest.fixture(scope="session")
def upstream() -> Callable[[str], Path]:
    """`upstream("SkyReels-V2")`: the clone's folder; skips where there is none."""

    def find(name: str) -> Path:
        home = Path(os.environ.get("SCOPE_PATCH_UPSTREAM", "~/.cache/scope_patch/upstream")).expanduser()
        if not (home / name).is_dir():
            pytest.skip(
                f"no clone of {name} under {home}: clone the official repository there, or set SCOPE_PATCH_UPSTREAM"
            )
        return home / name

    return find


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """`compare(…)`: the command in this process, where no LPIPS weights are: (exit code, stdout, stderr)."""
    from scope_patch.cli import main
    from scope_patch.compare import lpips

    monkeypatch.delenv(lpips.VARIABLE, raising=False)
    monkeypatch.setattr(lpips, "FOLDER", str(tmp_path / "no weights"))

    def run(*words: object) -> tuple[int, str, str]:
        code = main(["compare", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(compare: Command) -> Callable[..., None]:
    """`refused(complaints, …)`: `compare …` exits with 2 and prints one line, which has all the complaints."""

    def run(complaints: list[str], *words: object) -> None:
        code, out, err = compare(*words)
        assert (code, out) == (2, "") and err.count("\n") == 1, err
        assert all(complaint in err for complaint in complaints), err

    return run
