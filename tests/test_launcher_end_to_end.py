"""`run` with the real hooks and the real diffusers: the other launcher tests stop at a stub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, clean_environ
from launching import Tree

pytest.importorskip("diffusers")

HOST = """
import sys
from diffusers import SkyReelsV2DiffusionForcingPipeline as P
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel as M
seams = (P.generate_timestep_matrix, M.__call__)
print([hasattr(seam, "__wrapped__") for seam in seams], sys.modules["scope_patch"].__file__)
"""


def test_host_is_bound_and_a_run_without_a_generation_says_so(tmp_path: Path) -> None:
    """One process, started outside the checkout, with scope_patch on no path of the child's."""
    report = tmp_path / "run.json"
    command = Tree(ROOT, tmp_path).launcher("run", "--report", "run.json", "--", sys.executable, "-c", HOST)
    result = subprocess.run(command, cwd=tmp_path, env=clean_environ(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("] ") == ["[True, True", f"{ROOT / 'scope_patch' / '__init__.py'}\n"]
    told = json.loads(report.read_text())
    assert (told["schema"], told["status"], told["generations"]) == (2, "not-applied", [])
    assert told["reasons"]
    assert str(report) in result.stderr
