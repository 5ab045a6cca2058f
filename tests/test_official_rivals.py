"""Rivals and the residual level on the official SkyReels-V2 repository (skipped, with a reason, without a clone)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPT = Path(__file__).parent / "official_skyreels.py"


@pytest.fixture(scope="module")
def results(upstream, run_python):
    """Every case, in one process: importing upstream takes longer than running it."""
    words = (str(SCRIPT), str(upstream("SkyReels-V2")), "upstream's teacache", "residuals")
    done = run_python(*words, env={"PYTHONPATH": str(ROOT)}, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line["found"] for line in lines}


APART = ("odd counter", "guidance off")
"""Where upstream's counter of calls takes its branches apart; ours decide together (docs/rivals.md)."""


def test_our_teacache_is_upstreams(results):
    """The very forwards that upstream's built-in TeaCache skips, and the same video, bit by bit."""
    found = dict(results["upstream's teacache"])
    apart = {name: found.pop(name) for name in APART}
    assert {name: case for name, case in found.items() if not (case["same"] and case["equal"])} == {}
    shares = [case["skipped"][0] / case["calls"] for case in found.values()]
    assert len(found) == 9 and sum(0.2 < share < 0.9 for share in shares) >= 7
    assert {case["signal"] for case in found.values()} == {"time embedding (torch.fx)", "time modulation (torch.fx)"}
    assert not any(case["same"] for case in apart.values()), "say so in docs/rivals.md"


def test_the_residual_level(results):
    """Fresh embedding and head at every call, blocks only where the report says that they ran."""
    found = results["residuals"]
    for name, case in found.items():
        forwards = case["forwards"]
        assert case["calls"] == forwards["baseline"] and case["blocks"] == 2 * forwards["run"], name
        assert forwards["skipped"] > 0.4 * forwards["baseline"] and case["restored"], name
        assert case["error"] < 0.1 and set(case["guards"]) <= {"stability"}, name
    assert len(found) == 7
