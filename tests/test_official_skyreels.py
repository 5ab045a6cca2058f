"""The official SkyReels-V2 repository, unmodified, on a CPU (skipped with a reason where there is no clone)."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from official_skyreels import CASES

from scope_patch.patch.hooks import bindings
from scope_patch.patch.signature import check_static, failures

SCRIPT = Path(__file__).parent / "official_skyreels.py"
EXTRA = ("fail half-way", "teacache", "schedules", "plans", "features", "verify")


@pytest.fixture(scope="module")
def results(upstream, run_python):
    """Every case, in one process: importing upstream takes longer than running it."""
    done = run_python(str(SCRIPT), str(upstream("SkyReels-V2")), *CASES, *EXTRA, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line for line in lines}


@pytest.mark.parametrize("case", CASES)
def test_never_is_bit_identical(results, case):
    assert results[case]["never"] and results[case]["same draws"]


@pytest.mark.parametrize("case", CASES)
def test_report_counts_equal_what_ran(results, case):
    generation, counted = results[case]["generation"], results[case]["counted"]
    assert generation["forwards"]["run"] == counted["forwards"]
    assert counted["blocks"] == 2 * counted["forwards"], "a skipped iteration runs no block"
    assert sum(segment["slots_computed"] for segment in generation["segments"]) == counted["frames"]
    assert generation["signal"] == "time modulation (torch.fx)" and generation["finished"]
    for segment in generation["segments"]:
        runs = [len(list(group)) for skipped, group in itertools.groupby(segment["modes"], "P".__eq__) if skipped]
        assert max(runs) <= 5 and segment["selective"]


def test_at_most_forty_percent_of_the_forwards_are_left(results):
    generation = results["paper"]["generation"]
    assert generation["forwards"]["baseline"] == 140
    assert generation["forwards"]["run"] <= 0.4 * generation["forwards"]["baseline"]
    assert results["paper"]["error"] < 0.1


def test_end_frames_stay_in_every_interval(results):
    (segment,) = results["both ends"]["generation"]["segments"]
    assert {tuple(interval) for interval in segment["intervals"]} == {(0, 11)}  # 10 latent frames and the end frame


def test_after_a_generation_that_failed_half_way(results):
    found = results["fail half-way"]
    assert found["never"] and found["predicted"] and found["finished"] == [True, False, True]


def test_upstreams_teacache_is_refused(results):
    assert results["teacache"]["status"] == "not-applied" and "TeaCache" in results["teacache"]["reasons"][0]


def test_verified_steps(results):
    found = results["verify"]
    for name in ("skipping", "every", "tightened"):
        assert found[name]["counted"] == found[name]["generation"]["forwards"]["run"]
    segments = {name: found[name]["generation"]["segments"] for name in ("skipping", "every", "tightened")}
    assert found["equal"] and len(segments["every"]) > 1
    for skipping, every in zip(segments["skipping"], segments["every"], strict=True):
        assert len(every["verified"]) == skipping["modes"].count("P") > 10 and set(every["modes"]) == {"R"}
        assert all(each["error"] > 0 and each["expected"] > 0 for each in every["verified"])
    verified = [each["tightened"] for segment in segments["tightened"] for each in segment["verified"]]
    assert verified == [1, 0] and "P" not in segments["tightened"][-1]["modes"]


def test_masks_and_intervals_over_random_schedules(results):
    assert results["schedules"]["bad"] == [] and results["schedules"]["tried"] == 300


def test_plan_equals_run(results):
    found = results["plans"]
    assert found["failure"] == "" and found["plans"] >= 8
    assert found["segments"] > found["plans"] and found["skipped"] > 30


def test_features_and_timesteps_of_a_plan_are_the_hosts(results):
    found = results["features"]
    assert found["other timesteps"] == [] and len(found["differences"]) == 6
    assert max(found["differences"].values()) <= 1e-6


def test_under_the_launcher(upstream, run_python, tmp_path):
    report = tmp_path / "run.json"
    command = [sys.executable, str(SCRIPT), str(upstream("SkyReels-V2")), "plain"]
    done = run_python("-m", "scope_patch", "run", "--preset", "fast", "--report", str(report), "--", *command)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(report.read_text())
    assert told["status"] == "applied" and told["host"] == "skyreels-v2"
    assert f"DiT forwards {48} -> {told['generations'][0]['forwards']['run']}" in done.stderr


def test_the_clone_matches_and_one_renamed_parameter_is_named(upstream, tmp_path):
    clone, architecture = upstream("SkyReels-V2"), bindings()["skyreels-v2"].architecture
    assert failures(check_static(architecture, clone)) == []
    for module in architecture.modules:
        source = clone.joinpath(*module.split(".")).with_suffix(".py")
        target = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text().replace("num_pre_ready", "num_ready"))
    (failed,) = failures(check_static(architecture, tmp_path))
    assert "generate_timestep_matrix" in failed and "num_pre_ready" in failed
