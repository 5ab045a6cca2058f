"""The official MAGI-1 repository, unmodified, on a CPU (skipped with a reason where there is no clone)."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import sys
from pathlib import Path

import official
import pytest
from conftest import ROOT
from official_magi import FULLY, RULES, SUBJECTS

from scope_patch.patch.attach import bindings
from scope_patch.patch.signature import check_static, failures

SCRIPT = Path(__file__).parent / "official_magi.py"
ALONE = "ranks 1 1 cp_ulysses"
RANKS = {"pipeline stages": ["2 1 cp_ulysses"], "context parallel": ["1 2 cp_ulysses", "1 2 cp_shuffle_overlap"]}
CASES = ("plain", "laws", "rules", "long", "interrupted", "table", "plan", "verify", "cost", ALONE)


@pytest.fixture(scope="module")
def results(upstream, run_python):
    return official.results(run_python, SCRIPT.name, upstream("MAGI-1"), *CASES)


@official.each_law(SUBJECTS)
def test_law(results, proof):
    results.law(*proof)


@pytest.mark.parametrize(("case", "rule"), [*itertools.product(FULLY, RULES)])
def test_other_rules_count_what_ran(results, case, rule):
    found = results["rules"][f"{case}, {rule}"]
    generation, counted = found["generation"], found["counted"]
    (segment,) = generation["segments"]
    assert generation["forwards"]["run"] == counted["forwards"] == counted["blocks"] / 2
    assert segment["slots_computed"] == counted["frames"] < segment["slots_baseline"]
    assert generation["finished"] and found["same draws"] and math.isfinite(found["error"])
    named = {"timestep": "timestep embedding", "whole": "expected change of the latents"}
    assert generation["signal"] == named[rule] and generation["forced"] == {}


def test_the_forwards_over_a_prefix_are_forced(results):
    assert results["long"]["video"]["forced"] == {"prefix": 3}, "one a branch of guidance"
    assert results["long"]["long"]["forced"] == {}


def test_the_forwards_that_write_clean_keys_are_not_skipped(results):
    """240 frames: 9 of 208 steps prepend the chunk just finished."""
    (segment,) = results["long"]["long"]["segments"]
    assert segment["iterations"] == 208
    starts = [start for start, _ in segment["intervals"]]
    written = [i for i in range(1, 208) if i % 16 == 0 and i >= 64]
    assert len(written) == 9 and all(segment["modes"][i] == "R" for i in written)
    assert all(starts[i] == starts[i + 1] - 6 for i in written), "the lead is forwarded along"


def test_at_most_sixty_of_208_forwards_and_better_than_hold(results):
    table = results["table"]
    assert results["long"]["long"]["forwards"]["run"] <= 60
    for skips in (2, 5):
        assert table[f"hold {skips}"][0] == table[f"auto {skips}"][0], "at equal forwards"
        assert table[f"auto {skips}"][1] < 0.6 * table[f"hold {skips}"][1]


def test_after_a_walk_that_was_given_up_and_two_at_once(results):
    found = results["interrupted"]
    assert found["again"] and found["both"] == [True, True]
    assert found["finished"] == [True, False, True, True, True]


def test_plan_equals_run(results):
    found = results["plan"]
    assert found["failure"] == "" and found["plans"] >= 6 and found["skipped"] > 100
    assert len(found["differences"]) == 4 and max(found["differences"].values()) <= 1e-6


@pytest.mark.parametrize("case", FULLY)
def test_verifying_every_skipped_step_is_the_host_itself(results, case):
    found = results["verify"][case]
    assert found["equal"] and found["verified"] == found["skipped otherwise"] > 20
    assert found["run"] == found["counted"] == found["baseline"]


def test_flops_are_what_pytorch_counts(results):
    """Every call of `forward_dispatcher` in whole generations, predicted from options: sizes, guidance, a prefix."""
    found = results["cost"]["flops"]
    assert len(found) == 4
    for case, calls, total, off, same_shape in found:
        assert calls and total and off < 0.01 and same_shape, case


def test_schedules_are_upstreams(results):
    assert results["cost"]["bad"] == [] and results["cost"]["tried"] == 150


@pytest.mark.parametrize("mode", ["pipeline stages", pytest.param("context parallel", marks=pytest.mark.long)])
def test_ranks_decide_alike_and_give_the_result_of_one_process(results, upstream, run_python, mode):
    cases = [f"ranks {each}" for each in RANKS[mode]]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    command = (*torchrun, str(SCRIPT), str(upstream("MAGI-1")), *cases)
    found = official.lines(run_python(*command, env={"PYTHONPATH": str(ROOT)}, timeout=180))
    assert sorted(rank["case"] for rank in found) == sorted(cases * 2)
    for rank in found:
        assert {**rank, "case": ALONE} == results[ALONE]


def test_the_clone_matches_and_a_renamed_parameter_is_named_and_runs_unpatched(results, upstream, run_python, tmp_path):
    clone, architecture = upstream("MAGI-1"), bindings()["magi-1"].host
    assert failures(check_static(architecture, clone)) == []
    copy = tmp_path / "MAGI-1"
    shutil.copytree(clone, copy, ignore=shutil.ignore_patterns(".git", "*.mp4", "figures", "comfyui"))
    loop = copy / "inference/pipeline/video_generate.py"
    loop.write_text(loop.read_text().replace("cur_denoise_step", "denoise_step"))
    named = failures(check_static(architecture, copy))
    assert any("forward_velocity" in check and "cur_denoise_step" in check for check in named)

    report = tmp_path / "run.json"
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    run = ("-m", "scope_patch", "run", "--report", str(report), "--", sys.executable, str(script), str(copy))
    done = run_python(*run, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout) == results["plain"]["digest"]
    told = json.loads(report.read_text())
    assert told["status"] == "not-applied" and any("forward_velocity" in reason for reason in told["reasons"])


def test_under_the_launcher_from_a_shell_script(upstream, run_python, tmp_path):
    """As `bash example/4.5B/run.sh`: exports, a PYTHONPATH of its own with an empty element, a pipe."""
    report, script, shell = tmp_path / "run.json", tmp_path / "plain.py", tmp_path / "run.sh"
    script.write_text(PLAIN)
    shell.write_text(
        f'export WORLD_SIZE=1 PYTHONPATH="{ROOT}:$PYTHONPATH:"\n'
        f'{sys.executable} {script} "$1" 2>&1 | tee {tmp_path}/log\n'
    )
    command = ("-m", "scope_patch", "run", "--report", str(report), "--", "bash", str(shell), str(upstream("MAGI-1")))
    done = run_python(*command, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(report.read_text())
    assert told["status"] == "applied" and told["host"] == "magi-1"
    assert "DiT forwards 28 -> " in (tmp_path / "log").read_text()


PLAIN = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "examples")!r})
from magi_cpu import host
host.prepare(Path(sys.argv[1]))
options = host.Options()
print(float(host.generate(host.build(options, Path(sys.argv[1])), options).double().abs().sum()))
"""
