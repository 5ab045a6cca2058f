"""The demo's commands in processes of their own, from another folder than the repository."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs the demo extra: diffusers")


def test_generate_writes_video_sheet_and_latents(run_python, tmp_path):
    import torch

    command = [EXAMPLES / "generate.py", "--prompt", "a red disc", "--prompt", "a blue ring", "--steps", "5"]
    command += ["--num-frames", "33", "--threads", "1", "--no-progress", "--save-latents", tmp_path / "latents.pt"]
    done = run_python(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [f"{n}.{ending}" for n in ("00-a-red-disc", "01-a-blue-ring") for ending in ("mp4", "png")]
    latents = torch.load(tmp_path / "latents.pt")
    assert latents.shape == (2, 16, 10, 8, 8)
    assert latents.isfinite().all()
    assert "making 37" in done.stderr


def test_generate_knows_nothing_of_us():
    for source in [EXAMPLES / "generate.py", *(EXAMPLES / "demo_model").glob("*.py")]:
        assert not re.search(r"(import|from) scope_patch", source.read_text()), source


@pytest.mark.upstream
def test_official_class_gives_the_same_output(run_python, upstream):
    clone = upstream("SkyReels-V2")
    command = [EXAMPLES / "studies" / "to_official.py", "--check"]
    done = run_python(*command, env={"SCOPE_PATCH_UPSTREAM": str(clone.parent)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "block-causal, float32" in done.stdout
