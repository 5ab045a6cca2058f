"""Infinity's loop on a CPU: the fake of tests/fakes, and the official repository, unmodified (skipped with a reason
where there is no clone)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import official
import pytest
from conftest import ROOT
from official_infinity import CASES, RULES, UNLOOKED

GUIDED = ("guided", "off at the end", "batch")


@pytest.fixture(scope="module", params=["fake", pytest.param("official", marks=pytest.mark.upstream)])
def results(request, upstream, run_python):
    where = Path("fake") if request.param == "fake" else upstream("Infinity")
    return official.results(run_python, "official_infinity.py", where)


def of_case(results, case):
    """What the script says of it; the fake has one size, and no patchify."""
    if case not in results and "never - 1M" not in results:
        pytest.skip("the fake does not have it")
    return results[case]


def near(value):
    return pytest.approx(value, rel=1e-9)


def sound(found):
    """What holds in every mode: draws in step with upstream's, counts and FLOPs as by hooks, nothing failed."""
    assert found["status"] == "applied" and found["draws"] and not found["guards"]
    assert found["alone"] == near(found["host"]), "FLOPs of the host, by arithmetic and by hooks"
    assert found["flops"] == near(found["work"]), "what is left of them"
    alone, made = found["passes"]
    assert found["forwards"] == {"baseline": alone, "run": made, "skipped": alone - made}
    assert len(found["modes"]) == alone and found["modes"].count("R") == made


@pytest.mark.parametrize("case", CASES)
def test_never_is_upstream_bit_by_bit(results, case):
    found = of_case(results, f"never - {case}")
    sound(found)
    assert found["equal"] and found["flops"] == near(found["alone"]) and found["tokens"][0] == found["tokens"][1]


@pytest.mark.parametrize("case", CASES)
def test_a_target_of_two_leaves_half_of_the_work(results, case):
    found = of_case(results, f"target - {case}")
    sound(found)
    assert not found["equal"] and found["flops"] <= found["alone"] / 2
    assert found["baseline"] / found["flops"] > 1.9, "also of what is left without rows that are waste"


@pytest.mark.parametrize(
    "case", ["guidance a scale", "batch", "guidance within, off at the end", "five scales, unguided there"]
)
def test_rows_that_are_waste_are_left_out_and_the_picture_is_the_same(results, case):
    found = results[f"rows - {case}"]
    sound(found)
    assert found["equal"] and found["alone"] / found["flops"] > 1.7
    assert any("unconditional rows" in remark for remark in found["remarks"])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("of", GUIDED)
def test_every_rule_keeps_draws_and_counts(results, rule, of):
    found = results[f"{rule} - {of}"]
    sound(found)
    exact = (rule, of) == ("single rows", "off at the end")  # all that is left out there is waste
    assert found["equal"] is exact and found["flops"] < found["alone"]


@pytest.mark.parametrize("case", ["tokens - within", "tokens - patchify"])
def test_tokens_are_chosen_in_other_setups(results, case):
    sound(of_case(results, case))


@pytest.mark.parametrize(
    ("case", "word"),
    [("flex attention", "use_flex_attn"), ("no fused norm", "fused_norm"), ("rows within", "cfg_insertion_layer"),
     ("first scale", "first scale")],
)  # fmt: skip
def test_refused_by_name(results, case, word):
    found = results[case]
    assert found["equal"] and found["status"] == "not-applied"
    assert word in found["reasons"][0] and word in found["raised"]


def test_verifying_is_no_more_than_a_remark(results):
    found = results["verify"]
    assert found["status"] == "applied" and any("no skipped step is verified" in each for each in found["remarks"])


def test_an_error_of_the_hosts_own_passes_and_leaves_nothing_behind(results):
    assert results["the host fails"] == {
        "case": "the host fails", "caught": "on purpose", "again": True, "finished": [False, True],
    }  # fmt: skip


def test_a_failure_of_ours_costs_the_speed_up_and_not_the_picture(results):
    """At any block of any scale: every picture is finished, with the draws of the unpatched host."""
    found = results["we fail"]
    assert all(draws and finished for draws, _, finished, _ in found["places"])
    statuses = [status for _, status, *_ in found["places"]]
    assert {"not-applied", "partly"} == set(statuses)
    assert all(sum(forwards.values()) == 2 * forwards["baseline"] == 14 for *_, forwards in found["places"])


@pytest.mark.parametrize("words", UNLOOKED)
def test_no_number_of_a_tensor_is_looked_at_in_the_loop(results, words):
    found = results[f"no look - {words}"]
    assert found["problem"] == "" and found["equal"] and found["seen"] > 10


def test_removal_restores_every_attribute(results):
    found = results["removal"]
    assert found["restored"] and found["owners"] == 3 and found["equal"]


@pytest.mark.upstream
def test_the_demo_command_under_run(upstream, run_python, tmp_path):
    """A command as it is, with `run` in front: half of the work, and a picture."""
    env = {"SCOPE_PATCH_UPSTREAM": str(upstream("Infinity").parent), "PYTHONPATH": str(ROOT)}
    words = [str(ROOT / "examples" / "draw.py"), "--prompt", "a red disc", "--cfg", "3,3,3,3,1,1,1", "--out"]
    pictures = {}
    for name, options in (("alone", None), ("never", ["--policy", "never"]), ("half", ["--target-speedup", "2"])):
        before = ["-m", "scope_patch", "run", "--strict", "--report", f"{name}.json", *(options or []), "--"]
        command = [*(before if options else []), *([sys.executable] if options else []), *words, name]
        done = run_python(*command, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        pictures[name] = (tmp_path / name / "00-a-red-disc.png").read_bytes()
    assert pictures["alone"] == pictures["never"] != pictures["half"]
    assert "passes of the blocks 7 -> " in done.stderr and "unconditional rows" in done.stderr
    assert "signal sides of the scales" in done.stderr
    (generation,) = json.loads((tmp_path / "half.json").read_text())["generations"]
    assert generation["planned"][0]["work"] <= generation["planned"][0]["baseline"] / 2
