"""bootstrap/sitecustomize.py in other people's interpreters: whom it hides, whom it must not disturb."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import clean_environ
from launching import Tree, make_tree

IMPORT_HOST = "import skyreels_v2_infer; print('went on')"
PYENV = Path("~/.pyenv/versions").expanduser()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return make_tree(tmp_path_factory.mktemp("bootstrap"))


@pytest.fixture
def hidden(tree: Tree, tmp_path: Path) -> Path:
    """A folder with a user's own sitecustomize, which has seen to it that it goes by that name."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "assert __name__ == 'sitecustomize' and sys.modules[__name__].__dict__ is globals()\n"
        "sys.path.append('/added/by/the/user')\n"
        "sys.stderr.write('USER\\n')\n"
    )
    return tmp_path


def interpreters() -> list[str]:
    others = (sorted(PYENV.glob(f"{version}.*/bin/python")) for version in ("3.8", "3.10", "3.12", "3.13"))
    return [sys.executable, *(str(path) for paths in others for path in paths)]


@pytest.mark.parametrize("python", interpreters())
def test_users_sitecustomize_runs_under_its_name(tree: Tree, hidden: Path, python: str) -> None:
    code = "import sys, sitecustomize; print(sitecustomize.__file__, sys.path[-1])"
    result = tree.run("run", "--", python, "-c", code, python={"PYTHONPATH": str(hidden)})
    assert result.stdout.split() == [str(hidden / "sitecustomize.py"), "/added/by/the/user"]
    assert result.stderr.startswith("USER\n")


def test_users_sitecustomize_runs_when_ours_fails(tree: Tree, hidden: Path) -> None:
    environ = clean_environ(
        PYTHONPATH=os.pathsep.join([tree.bootstrap, str(hidden)]),
        _SCOPE_PATCH_TRIGGERS="skyreels_v2_infer",
        _SCOPE_PATCH_LAUNCHER="damaged",
    )
    result = subprocess.run([sys.executable, "-c", ""], env=environ, capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[0].startswith("scope_patch: off: ValueError")
    assert result.stderr.splitlines()[1:] == ["USER"]


@pytest.mark.parametrize("body", ["raise RuntimeError('the user broke it')", "import not_there_at_all"])
def test_users_sitecustomize_fails_as_without_us(tree: Tree, tmp_path: Path, body: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(body + "\n")
    environ = {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", "import skyreels_v2_infer"]
    plain = subprocess.run(
        command, cwd=tree.work, env=clean_environ(**environ), capture_output=True, text=True, check=False
    )
    later = f'export PYTHONPATH="$PYTHONPATH:{tmp_path}"; exec "$@"'  # or the launcher's own Python would fail as well
    ours = tree.run("run", "--", "bash", "-c", later, "bash", *command)
    assert ours.returncode == plain.returncode
    assert ours.stderr == plain.stderr + "ARMED scope None light\n"


def test_interpreter_without_our_dependencies_stays_off(tree: Tree, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    result = tree.run("run", "--", python, "-c", IMPORT_HOST)
    assert result.stdout == "went on\n"
    line = result.stderr.rstrip("\n")
    assert "\n" not in line
    for part in (str(python), sys.executable, "has no torch, wrapt, packaging", "unpatched"):
        assert part in line
    strict = tree.run("run", "--strict", "--", python, "-c", IMPORT_HOST)
    assert (strict.returncode, strict.stdout) == (1, "")


@pytest.mark.parametrize("version", ["3.8", "3.12"])
def test_interpreter_of_another_version_stays_off(tree: Tree, version: str) -> None:
    found = sorted(PYENV.glob(f"{version}.*/bin/python"))
    if not found or version == ".".join(map(str, sys.version_info[:2])):
        pytest.skip(f"no second interpreter of version {version} under {PYENV}")
    result = tree.run("run", "--", found[0], "-c", IMPORT_HOST)
    assert result.stdout == "went on\n"
    assert "has no " + ("Python >= 3.10, torch" if version == "3.8" else "torch") in result.stderr
    assert f"(Python {version})" in result.stderr


def test_interpreter_with_our_dependencies_goes_on(tree: Tree, tmp_path: Path) -> None:
    venv.create(tmp_path / "full", with_pip=False)
    packages = next((tmp_path / "full" / "lib").glob("python*/site-packages"))
    for name in ("torch", "wrapt", "packaging"):
        (packages / f"{name}.py").write_text("raise AssertionError('the bootstrap imports nothing of it')")
    result = tree.run("run", "--", tmp_path / "full" / "bin" / "python", "-c", IMPORT_HOST)
    assert result.stderr == "ARMED scope None light\n"


def test_arming_while_the_package_is_imported_already(tree: Tree) -> None:
    code = f"import sys; sys.path.insert(0, {str(tree.package)!r}); import scope_patch as before; {IMPORT_HOST}"
    result = tree.run("run", "--", sys.executable, "-c", code + "; assert sys.modules['scope_patch'] is before")
    assert (result.returncode, result.stderr) == (0, "ARMED scope None light\n")


def test_looking_for_a_host_arms_and_submodules_do_not(tree: Tree) -> None:
    code = "import importlib.util as u; assert u.find_spec('skyreels_v2_infer') and not u.find_spec('json.diffusers')"
    result = tree.run("run", "--", sys.executable, "-c", code)
    assert (result.returncode, result.stderr) == (0, "ARMED scope None light\n")


def test_forked_child_does_not_speak_for_the_command(tree: Tree) -> None:
    code = "import os, sys; pid = os.fork(); pid and os.wait(); sys.exit(0)"
    result = tree.run("run", "--", sys.executable, "-c", code)
    assert result.stderr.count("nothing was patched") == 1


def test_closed_stderr_is_no_reason_to_fail(tree: Tree) -> None:
    result = tree.run("run", "--", "bash", "-c", f"exec {sys.executable} -c 'print(1)' 2>&-")
    assert (result.returncode, result.stdout) == (0, "1\n")


def test_bootstrap_parses_as_python_3_6(tree: Tree) -> None:
    text = Path(tree.bootstrap, "sitecustomize.py").read_text()
    ast.parse(text, feature_version=(3, 6))
    assert os.listdir(tree.bootstrap) in (
        ["sitecustomize.py"],
        ["sitecustomize.py", "__pycache__"],
        ["__pycache__", "sitecustomize.py"],
    )
