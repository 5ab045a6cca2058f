"""The official SkyReels-V2 repository, unmodified, on a CPU (skipped with a reason where there is no clone)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import official
import pytest
from official_skyreels import SUBJECTS

from scope_patch.patch.attach import bindings
from scope_patch.patch.signature import check_static, failures

SCRIPT = Path(__file__).parent / "official_skyreels.py"
CASES = "laws,facts,cost,teacache,schedules,plans,features,verify,frozen,upstream's teacache,residuals".split(",")


@pytest.fixture(scope="module")
def results(upstream, run_python):
    return official.results(run_python, SCRIPT.name, upstream("SkyReels-V2"), *CASES)


@official.each_law(SUBJECTS)
def test_law(results, proof):
    results.law(*proof)


def test_at_most_forty_percent_of_the_forwards_are_left(results):
    found = results["facts"]["paper"]
    generation = found["generation"]
    assert generation["forwards"]["baseline"] == 140
    assert generation["forwards"]["run"] <= 0.4 * generation["forwards"]["baseline"]
    assert found["error"] < 0.1
    assert generation["signal"] == "time modulation (torch.fx)"
    assert all(segment["selective"] for segment in generation["segments"])


def test_end_frames_stay_in_every_interval(results):
    (segment,) = results["facts"]["both ends"]["generation"]["segments"]
    assert {tuple(interval) for interval in segment["intervals"]} == {(0, 11)}  # 10 latent frames and the end frame


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


def test_kept_keys_are_exact_under_block_causal_attention(results):
    for name, found in results["frozen"]["found"].items():
        if name.startswith("noised"):
            assert len(found["planned"]) == 2 and found["planned"][1] == 0, "the first segment has no prefix"
            assert any("--addnoise-condition" in remark for remark in found["remarks"])
        assert found["held"] == max(found["planned"]) > 0 and found["slots"][1] < found["slots"][0]
        if "float32" in name:
            assert found["error"] <= 1e-5, name  # 100 dB; in bf16 it is the rounding that differs


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


def test_flops_are_what_pytorch_counts(results):
    found = results["cost"]["flops"]
    assert len(found) == 4
    for case, theirs, ours in found:
        assert ours == pytest.approx(theirs, rel=0.01), case


def test_progress_is_upstreams(results):
    assert results["cost"]["bad"] == []


APART = ("odd counter", "guidance off")
"""Where upstream's counter of calls takes its branches apart; ours decide together (docs/rivals.md)."""


def test_our_teacache_is_upstreams(results):
    """The very forwards that upstream's built-in TeaCache skips, and the same video, bit by bit."""
    found = dict(results["upstream's teacache"]["found"])
    apart = {name: found.pop(name) for name in APART}
    assert {name: case for name, case in found.items() if not (case["same"] and case["equal"])} == {}
    shares = [case["skipped"][0] / case["calls"] for case in found.values()]
    assert len(found) == 9 and sum(0.2 < share < 0.9 for share in shares) >= 7
    assert {case["signal"] for case in found.values()} == {"time embedding (torch.fx)", "time modulation (torch.fx)"}
    assert not any(case["same"] for case in apart.values()), "say so in docs/rivals.md"


def test_the_residual_level(results):
    """Fresh embedding and head at every call, blocks only where the report says that they ran."""
    found = results["residuals"]["found"]
    for name, case in found.items():
        forwards = case["forwards"]
        assert case["calls"] == forwards["baseline"] and case["blocks"] == 2 * forwards["run"], name
        assert forwards["skipped"] > 0.4 * forwards["baseline"] and case["restored"], name
        assert case["error"] < 0.1 and set(case["guards"]) <= {"stability"}, name
    assert len(found) == 7


def test_under_the_launcher(upstream, run_python, tmp_path):
    report = tmp_path / "run.json"
    command = [sys.executable, str(SCRIPT), str(upstream("SkyReels-V2")), "plain"]
    done = run_python("-m", "scope_patch", "run", "--preset", "fast", "--report", str(report), "--", *command)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(report.read_text())
    assert told["status"] == "applied" and told["host"] == "skyreels-v2"
    assert f"DiT forwards {48} -> {told['generations'][0]['forwards']['run']}" in done.stderr


def test_the_clone_matches_and_one_renamed_parameter_is_named(upstream, tmp_path):
    clone, architecture = upstream("SkyReels-V2"), bindings()["skyreels-v2"].host
    assert failures(check_static(architecture, clone)) == []
    for module in architecture.modules:
        source = clone.joinpath(*module.split(".")).with_suffix(".py")
        target = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text().replace("num_pre_ready", "num_ready"))
    (failed,) = failures(check_static(architecture, tmp_path))
    assert "generate_timestep_matrix" in failed and "num_pre_ready" in failed
