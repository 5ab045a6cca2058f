"""The demo's commands in processes of their own, from another folder than the repository."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SHARED = {"trial.py", "recorder.py"}  # by the studies
STUDIES = sorted({path.name for path in (EXAMPLES / "studies").glob("*.py")} - SHARED)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs the demo extra: diffusers")


def test_generate_writes_video_sheet_and_latents(run_python, tmp_path):
    import torch

    command = [EXAMPLES / "generate.py", "--prompt", "a red disc", "--prompt", "a blue ring", "--steps", "5"]
    command += ["--num-frames", "13", "--threads", "1", "--no-progress", "--save-latents", tmp_path / "latents.pt"]
    done = run_python(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [f"{n}.{ending}" for n in ("00-a-red-disc", "01-a-blue-ring") for ending in ("mp4", "png")]
    latents = torch.load(tmp_path / "latents.pt")
    assert latents.shape == (2, 16, 5, 8, 8)
    assert latents.isfinite().all()
    assert "making 17" in done.stderr


def test_generate_knows_nothing_of_us():
    for source in [EXAMPLES / "generate.py", *(EXAMPLES / "demo_model").glob("*.py")]:
        assert not re.search(r"(import|from) scope_patch", source.read_text()), source


def test_what_examples_import_of_us_is_there():
    """No test runs the studies; a name that moved shows here."""
    for source in EXAMPLES.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "scope_patch":
                module = importlib.import_module(node.module)
                for each in node.names:
                    found = hasattr(module, each.name) or importlib.util.find_spec(f"{node.module}.{each.name}")
                    assert found, f"{source}: from {node.module} import {each.name}"


HELP = """
import runpy, sys
from pathlib import Path
before, searched = {*sys.modules}, sys.path[1:]
for path in map(Path, sys.argv[1:]):
    sys.argv, sys.path[:] = [str(path), "--help"], [str(path.parent), *searched]
    for name in [name for name in sys.modules if name not in before and "examples" in str(sys.modules[name])]:
        del sys.modules[name]  # as if it were alone
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        assert not end.code, path
    print("---")
"""


def test_a_study_says_how_it_is_run(run_python, tmp_path):
    """All in one process: each by itself would mostly import torch."""
    done = run_python("-c", HELP, *(EXAMPLES / "studies" / study for study in STUDIES), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = done.stdout.split("---\n")[:-1]
    assert len(told) == len(STUDIES)
    for study, words in zip(STUDIES, told, strict=True):
        assert f"python examples/studies/{study}" in words


def test_documents_name_scripts_that_are_there():
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    named = {name for text in texts for name in re.findall(r"python (examples/[\w/]+\.py)", text.read_text())}
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.upstream
def test_official_class_gives_the_same_output(run_python, upstream):
    clone = upstream("SkyReels-V2")
    command = [EXAMPLES / "studies" / "to_official.py", "--check"]
    done = run_python(*command, env={"SCOPE_PATCH_UPSTREAM": str(clone.parent)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "block-causal, float32" in done.stdout


@pytest.mark.long
@pytest.mark.upstream
def test_official_loop_gives_the_same_latents(run_python, upstream):
    """Of the physics model: a staircase, all in step, three segments."""
    clone = upstream("SkyReels-V2")
    command = [EXAMPLES / "studies" / "to_official.py", "--loop"]
    done = run_python(*command, env={"SCOPE_PATCH_UPSTREAM": str(clone.parent)}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("latents of") == 3
