"""The command line as users meet it: its errors, its listings, its dry run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scope_patch import cli
from scope_patch.launch import blocking_flags, interpreter_of

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """`call("run", …)` in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr("logging.basicConfig", lambda **options: None)
    for name in [name for name in os.environ if name.startswith("SCOPE_PATCH")]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], ["no command to run", "behind `--`"]),
        (["run", "--"], ["no command to run"]),
        (["run", "--no-such-option", "--", "x"], ["unrecognized arguments: --no-such-option"]),
        (["run", "--max", "3", "--", "x"], ["unrecognized arguments: --max"]),
        (["run", "python", "x.py"], ["python x.py: is that the command?", "behind `--`"]),
        (["run", "--cache-threshold", "0.5", "--predict-threshold", "0.3", "--", "x"], ["lower --cache-threshold"]),
        (["run", "--max-skip", "-1", "--", "x"], ["max_skip is -1"]),
        (["run", "--predict-decay", "2", "--", "x"], ["[0, 1]"]),
        (["run", "--preset", "fats", "--", "x"], ["did you mean fast?"]),
        (["run", "--policy", "nevr", "--", "x"], ["no policy 'nevr'", "did you mean never?"]),
        (["run", "--predictor", "tailor1", "--", "x"], ["no predictor 'tailor1'", "did you mean taylor1?"]),
        (["run", "--predictor", "../predictors/hold", "--", "x"], ["no predictor"]),
        (["run", "--report", "/no/such/folder/run.json", "--", "x"], ["no directory /no/such/folder", "create it"]),
        (["run", "--report", "/", "--", "x"], ["is a directory"]),
        (["run", "--report", "/dev/null", "--", "x"], ["or a device"]),
        (["list", "--", "x"], ["did you mean `run`?"]),
        (["doctor", "--repo", "/no/such/folder"], ["--repo /no/such/folder is not a directory"]),
        (["nonsense"], ["invalid choice"]),
        ([], ["required"]),
    ],
)
def test_own_usage_errors_are_2_and_teach(call: Call, arguments: list[str], words: list[str]) -> None:
    code, out, err = call(*arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_report_that_may_not_be_written(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *arguments, **options: False)  # root may write anywhere
    code, _, err = call("run", "--report", str(tmp_path / "run.json"), "--", "true")
    assert (code, "no write permission" in err) == (2, True)


def test_dry_run_shows_everything_and_runs_nothing(call: Call, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    report = tmp_path / "run.json"
    code, out, _ = call("run", "--dry-run", "--preset", "slow", "--report", str(report), "--", "touch", str(touched))
    assert code == 0
    assert not touched.exists()
    assert not report.exists()
    lines = [line.split(None, 2) for line in out.splitlines()]
    assert ["preset", "slow", "flag --preset"] in lines and ["cache_threshold", "-", "default"] in lines
    assert f"command:     touch {touched}" in out
    assert "scope_patch/bootstrap" in out
    assert "interpreter: cannot be told" in out
    armed = "diffusers, infinity.models.infinity, longcat_video, inference.model.dit, "
    assert f"injection:   can work; armed by an import of {armed}" in out


def test_dry_run_by_environment_and_a_flag_that_keeps_us_out(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOPE_PATCH_DRY_RUN", "1")
    code, out, _ = call("run", "--", sys.executable, "-IB", "x.py")
    assert code == 0
    assert f"interpreter: {sys.executable}" in out
    assert "injection:   cannot work: the interpreter is started with -I (isolated mode)" in out


def test_dry_run_under_the_kill_switch(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOPE_PATCH", "0")
    assert "cannot work: SCOPE_PATCH=0" in call("run", "--dry-run", "--", "x")[1]


def test_list_names_everything_with_its_origin(call: Call) -> None:
    code, out, _ = call("list")
    assert code == 0
    for word in ("skyreels-v2 ", "skyreels-v2-diffusers", "armed by diffusers", "registry/skyreels_v2.py"):
        assert word in out
    for word in ("scope ", "never ", "taylor2 ", "auto ", "method/policies.py", "method/predictors.py"):
        assert word in out


def test_list_shows_an_unreadable_registry_file(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scope_patch import registry

    (tmp_path / "broken_model.py").write_text("ARCHITECTURE = \n")
    monkeypatch.setattr(registry, "__path__", [str(tmp_path)])
    code, out, _ = call("list")
    assert code == 1
    assert "broken_model.py: SyntaxError" in out
    assert call("run", "--dry-run", "--", "true")[0] == 0  # a broken file is no reason to lose a run


def test_doctor_on_this_interpreter(call: Call) -> None:
    pytest.importorskip("diffusers")
    code, out, _ = call("doctor")
    assert code == 0
    assert sys.executable in out
    assert "tried: a child of this Python reads our sitecustomize" in out
    assert "skyreels-v2-diffusers" in out
    assert "  loop of text to video; image to video: a clock: `step` of " in out
    assert "  loop of chunk-wise: called steps: every call of forward_velocity " in out
    assert "  -> matches" in out


def test_doctor_on_a_clone(call: Call, upstream: Callable[[str], Path]) -> None:
    code, out, _ = call("doctor", "--repo", str(upstream("SkyReels-V2")))
    assert code == 0
    assert "ok     parameters of WanModel.forward" in out


def test_doctor_names_the_check_that_fails(call: Call, upstream: Callable[[str], Path], tmp_path: Path) -> None:
    package = "skyreels_v2_infer"
    shutil.copytree(upstream("SkyReels-V2") / package, tmp_path / package)
    file = tmp_path / package / "pipelines" / "diffusion_forcing_pipeline.py"
    file.write_text(file.read_text().replace("casual_block_size", "causal_block_size"))
    code, out, _ = call("doctor", "--repo", str(tmp_path))
    assert code == 1
    assert (
        "FAILED parameters of DiffusionForcingPipeline.generate_timestep_matrix: no parameter casual_block_size" in out
    )


@pytest.mark.parametrize("flag", ["-I", "-E"])
def test_doctor_says_that_this_python_was_started_with_a_blocking_flag(tmp_path: Path, flag: str) -> None:
    root = Path(cli.__file__).parent.parent
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from scope_patch.cli import main; main(sys.argv[1:])"
    result = subprocess.run(
        [sys.executable, flag, "-c", code, "doctor", "--repo", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert f"this Python runs with {flag}" in result.stdout


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["-I", "x.py"], ("I",)),
        (["-BE", "-S", "x.py"], ("E", "S")),
        (["-W", "error", "-I", "x.py"], ("I",)),
        (["-Werror", "-X", "dev", "-s"], ()),
        (["-m", "pkg", "-I"], ()),
        (["-c", "code", "-I"], ()),
        (["-Ic", "code"], ("I",)),
        (["x.py", "-I"], ()),
        (["--check-hash-based-pycs", "-"], ()),
        (["-", "-I"], ()),
    ],
)
def test_blocking_flags_are_the_interpreters_own(words: list[str], flags: tuple[str, ...]) -> None:
    assert blocking_flags(words) == flags


def test_interpreter_behind_env_and_shebang(tmp_path: Path) -> None:
    environ = {"PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin"}
    assert interpreter_of(["env", "A=b", "python", "-E", "x"], environ).blocking == ("E",)
    assert interpreter_of(["bash", "run.sh"], environ).path is None
    assert interpreter_of(["env", "-i", "python"], environ).path is None
    for shebang, blocking in ((f"#!{sys.executable} -I", ("I",)), ("#!/usr/bin/env python", ()), ("#!/bin/sh", None)):
        script = tmp_path / "torchrun"
        script.write_text(shebang + "\n")
        script.chmod(0o755)
        found = interpreter_of(["torchrun", "-I"], environ)
        assert (found.path is None) is (blocking is None)
        assert found.blocking == (blocking or ())


LIGHT = """
import sys
from scope_patch.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "numpy", "wrapt", "diffusers"} & set(sys.modules)
print("HEAVY" if heavy else "LIGHT", sorted(heavy), code)
"""


@pytest.mark.parametrize("expected", ["LIGHT", "HEAVY"])
def test_the_launcher_does_not_import_torch(
    run_python: Callable[..., subprocess.CompletedProcess[str]], expected: str
) -> None:
    """With a second run that shows that the check itself can fail."""
    code = LIGHT if expected == "LIGHT" else "import numpy" + LIGHT
    words = ["run", "--dry-run", "--predictor", "hold", "--policy", "never", "--", "python"]
    result = run_python("-c", code, *words)
    assert result.stdout.splitlines()[-1].startswith(expected), result
