"""However the project gets onto a machine, `registry/` and what is no Python come with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, Runner, clean_environ

pytest.importorskip("build")
pytest.importorskip("hatchling")

FIND = """
import sys
sys.path.append(sys.argv[1])
from scope_patch.catalogue import read_hosts
found, problems = read_hosts()
assert not problems, problems
print(*sorted(origin for _, origin in found), sep="\\n")
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a clone that a build reads, away from this working tree."""
    folder = tmp_path_factory.mktemp("source") / "scope_patch"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("scope_patch", "registry"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", ".gitignore", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "README.md").write_text("# scope_patch\n")
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`python -m build` makes the sdist, then the wheel out of the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    result = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def origins(package_root: Path) -> list[Path]:
    """Where a fresh interpreter finds the registry files when scope_patch is importable from `package_root`."""
    environ = clean_environ(PYTHONPATH=str(package_root))
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", FIND, str(package_root)]
    result = subprocess.run(command, cwd="/", env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [Path(line) for line in result.stdout.splitlines()]


def names() -> list[str]:
    return sorted(path.name for path in (ROOT / "registry").glob("*.py"))


def test_wheel_from_sdist(built: Path, tmp_path: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers()}
        assert {f"registry/{name}" for name in names()} <= files
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        files = set(archive.namelist())
        archive.extractall(tmp_path)
    assert {f"scope_patch/registry/{name}" for name in names()} <= files
    assert {
        "scope_patch/py.typed",
        "scope_patch/bootstrap/sitecustomize.py",
        "scope_patch/report/page.html.jinja",
    } <= files
    assert "scope_patch-0.1.0.dist-info/licenses/LICENSE" in files
    assert "scope_patch/registry/__init__.py" not in files
    assert not any(name.startswith(("registry/", "tests/", "examples/")) for name in files)
    assert origins(tmp_path) == [tmp_path / "scope_patch" / "registry" / name for name in names()]


def test_wheel_straight_from_the_source(source: Path, built: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(source)]
    assert subprocess.run(command, env=clean_environ(), capture_output=True, check=False).returncode == 0
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as ours, zipfile.ZipFile(next(built.glob("*.whl"))) as other:
        assert sorted(ours.namelist()) == sorted(other.namelist())


def test_bare_checkout(source: Path) -> None:
    assert origins(source) == [source / "registry" / name for name in names()]


def test_editable_install(source: Path, tmp_path: Path, run_process: Runner) -> None:
    """pip writes a .pth file, which only a site directory obeys: so into a virtual environment of its own."""
    run_process([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(tmp_path / "venv")])
    python = tmp_path / "venv" / "bin" / "python"
    # hatchling and what it needs come from the interpreter that runs the tests; nothing is downloaded.
    here = next(path for path in sys.path if Path(path, "hatchling").is_dir())
    command = [python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "-e", source]
    result = run_process(command, env={"PYTHONPATH": here, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    assert result.returncode == 0, result.stdout + result.stderr
    found = run_process([python, "-c", FIND, here], cwd="/")
    assert found.stdout.splitlines() == [str(source / "registry" / name) for name in names()]
    script = run_process([python.with_name("scope-patch"), "--version"], env={"PYTHONPATH": here}, cwd="/")
    assert script.stdout == "scope-patch 0.1.0\n"
    assert os.listdir(source / "registry") != []


def test_constraints_cover_every_requirement() -> None:
    """README's commands install by constraints.txt: a requirement without a line there would float."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [pin for pin in map(Requirement, filter(None, lines)) if pin.marker is None or pin.marker.evaluate()]
    pinned = {canonicalize_name(pin.name): pin for pin in pins}
    for requirement in map(Requirement, wanted):
        pin = pinned[canonicalize_name(requirement.name)]
        version = next(iter(pin.specifier)).version
        assert requirement.specifier.contains(version), f"{pin} is outside {requirement}"
