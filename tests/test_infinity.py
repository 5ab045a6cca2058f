"""Infinity without a clone: arithmetic, decisions, residuals on grids, `plan`, settings and the report's words."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from scope_patch.cli import main
from scope_patch.errors import UsageError
from scope_patch.hosts import infinity
from scope_patch.method.decision import Size
from scope_patch.method.history import GridHistory, detailed, resample
from scope_patch.method.resolved import method_of
from scope_patch.outlook.jobs import known_host
from scope_patch.patch import signature
from scope_patch.report import page, summary
from scope_patch.report.read import parse
from scope_patch.report.record import SCALES, GenerationRecord, Run, Segment
from scope_patch.settings import Settings

SIDES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
TINY = infinity.InfinityShape(64, 4, 256, 16)


def image(cfg=4.0, count=13, **more):
    guidance = tuple(cfg) if isinstance(cfg, list | tuple) else (cfg,) * count
    doubled = any(each != 1 for each in guidance)
    return infinity.Image(tuple((side, side) for side in SIDES[:count]), guidance, text=(8, 8), doubled=doubled, **more)


def decided(shape=TINY, of=None, **options):
    method = method_of(Settings(**options), known_host("infinity").defaults_for(Size(shape.width, shape.layers)))
    return infinity.decide(method, shape, of or image())


@pytest.fixture
def plan(capsys):
    def run(*words):
        code = main(["plan", "infinity", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def told(plan, *words):
    code, out, _ = plan(*words, "--json")
    assert code == 0
    return json.loads(out)


@pytest.mark.parametrize(("model", "total", "last"), [("2B", 116.2, (46, 22, 13, 8)), ("8B", 385.5, (44, 22, 14, 8))])
def test_work_of_the_released_models(plan, model, total, last):
    """Design §3f, from an arithmetic of its own."""
    found = told(plan, "--pn=1M", f"--model={model}", "--policy=never")
    work = [scale["host"] / 1e12 for scale in found["scales"]]
    assert sum(work) == pytest.approx(total, abs=0.1) and found["speedup"] == 1
    assert tuple(round(100 * each / sum(work)) for each in work[:-5:-1]) == last


def test_what_has_no_say_is_told_and_what_a_run_refuses_is_refused(plan):
    remarks = told(plan, "--pn=0.06M", "--widths=3", "--no-replay", "--verify=2")["remarks"]
    assert remarks[0].startswith("--replay, --widths: without effect") and "no skipped step is verified" in remarks[-1]
    for words, complaint in (
        (["--level=residual"], "residual level"),
        (["--policy=teacache"], "residual level"),
        (["--profile=/gone.json"], "cannot be read"),
    ):
        code, _, err = plan("--pn=0.06M", *words)
        assert code == 2 and complaint in err
    assert decided(target_speedup=1.3, placement="error").actions == (
        decided(target_speedup=1.3, placement="error", replay=False).actions
    ), "nothing can be taken again"


def test_what_is_said_one_by_one(plan):
    code, out, _ = plan("--model=2B", "--scales=R,S0.6,S0.5,Z,Z")
    assert code == 0 and "S0.6" in out and "passes of the blocks 13 -> 11" in out
    found = told(plan, "--scales=R,S0.6,S0.5,Z,Z")
    assert [scale["action"] for scale in found["scales"]] == ["R"] * 9 + ["S0.6", "S0.5", "Z", "Z"]
    assert 3.9 < found["speedup"] < 4.3, "FastVAR's rule: 4.1 by design §3f"


def test_rows_that_are_waste(plan):
    found = told(plan, "--cfg=" + ",".join(["4"] * 10 + ["1"] * 3), "--target-speedup=1")
    assert [scale["action"] for scale in found["scales"]] == ["R"] * 10 + ["Ru"] * 3
    assert found["speedup"] == 1 and found["host"] / found["work"] == pytest.approx(1.68, abs=0.02)
    assert "unconditional rows" in found["remarks"][0]
    assert told(plan, "--cfg=1", "--target-speedup=1")["host"] == told(plan, "--cfg=1", "--policy=never")["work"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--scales=X"], "scales is X, but must be C or P"),
        (["--scales=R,S"], "must be C or P"),
        (["--scales=S1.5"], "must be C or P"),
        (["--scales=Zu,R"], "must be C or P"),
        (["--scales=" + ",".join("Z" * 13)], "skips the first scale"),
        (["--cfg=4,1"], "2 numbers for 13 scales"),
        (["--grids=1x1,2"], "--grids and --cfg are lists"),
    ],
)
def test_errors_teach(plan, words, complaint):
    code, out, err = plan(*words)
    assert (code, out) == (2, "") and complaint in err and err.count("\n") == 1


def test_rows_cannot_be_left_out_where_guidance_is_within():
    with pytest.raises(UsageError, match="guidance is put in at block -5"):
        decided(of=image(layers=(-5,)), scales="R,Ru")
    assert decided(of=image(cfg=[4.0] * 12 + [1.0], layers=(-5,)), scales="R,Ru").actions[-1].single


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 13),
    cfg=st.lists(st.sampled_from([1.0, 3.0]), min_size=13, max_size=13),
    target=st.floats(1, 6),
    rule=st.sampled_from("ZPCL"),
    placement=st.sampled_from([None, "error", "threshold"]),
)
def test_what_is_decided(count, cfg, target, rule, placement):
    """The first scale runs; rows are left out where nothing depends on them, and nowhere else; work adds up."""
    asked = image(cfg[:count], count)
    made = decided(of=asked, target_speedup=target, scales=rule, placement=placement)
    assert made.actions[0].mode == "R" and {each.mode for each in made.actions} <= {"R", "S", rule}
    if placement is None:
        assert made.bound or sum(made.work) <= sum(made.baseline) / target * (1 + 1e-9)
        runs = [each.runs for each in made.actions]
        assert runs == sorted(runs, reverse=True), "from the end"
    waste = [k for k in range(count) if asked.doubled and all(each == 1 for each in cfg[k:count])]
    assert all(each.single for k, each in enumerate(made.actions) if each.runs and k in waste)
    if target == 1 or placement is not None:
        assert not any(each.single for k, each in enumerate(made.actions) if k not in waste)
    assert sum(made.work) <= sum(made.baseline) <= sum(made.host)
    assert all(work <= whole for work, whole in zip(made.work, made.baseline, strict=True))
    assert made.summary["modes"].count("R") == sum(each.runs for each in made.actions)
    never = decided(of=asked, policy="never", scales=rule)
    assert all(each == infinity.Action() for each in never.actions) and never.work == never.host


def test_a_limit_of_skipped_scales_is_kept_and_told():
    made = decided(target_speedup=5.0, max_skip=1)
    assert str(made.actions[-1]) == "Z" and all(each.runs for each in made.actions[:-1]) and made.bound
    assert "was aimed at" in made.remarks[0]
    assert all(str(each) == "R" for each in decided(target_speedup=5.0, max_skip=0).actions)


def test_a_scale_in_part_fills_what_whole_ones_would_overshoot():
    made = decided(infinity.NAMED["2B"], target_speedup=2.0)
    assert [str(each) for each in made.actions[-3:]] == ["R", "Ru", "Z"]
    assert 2.0 <= sum(made.baseline) / sum(made.work) < 2.4
    within = decided(infinity.NAMED["2B"], image(layers=(-5,)), target_speedup=2.0)
    assert [str(each) for each in within.actions[-3:]] == ["R", "S0.5", "Z"], "where guidance needs both rows"


def test_a_dropped_scale_is_not_seen_by_later_ones():
    """Fewer keys and values make a later scale cheaper."""
    whole, without = decided(scales="R,R"), decided(scales="Z,R")
    assert without.work[-1] < whole.work[-1] and without.work[-3] == whole.work[-3]


def test_the_table_falls_by_the_octave():
    table = infinity.table(image())
    table.check()
    levels = table.noise_levels[:, 0]
    assert levels[0] == 1 and levels[1] - levels[2] == pytest.approx(levels[0] - levels[1])
    assert 0 < levels[-1] == pytest.approx(1 / 7)  # one octave behind 64 lies 128: seven from 1


# Residuals on grids.


def test_resampling_keeps_what_is_constant_and_does_nothing_on_one_grid():
    x = torch.randn(2, 12, 5)
    assert resample(x, (3, 4), (3, 4)) is x
    flat = torch.full((2, 12, 5), 3.5)
    assert torch.allclose(resample(flat, (3, 4), (7, 9)), torch.tensor(3.5))


def test_prediction_is_exact_on_a_line_and_no_longer_than_its_gap():
    first, slope = torch.full((1, 16, 3), 2.0), 0.25
    history = GridHistory()
    assert history.estimate(2.0, (8, 8), predict=True) is None
    history.record(2.0, (4, 4), first)
    assert torch.equal(history.estimate(3.0, (8, 8), predict=True), torch.full((1, 64, 3), 2.0)), "one point: held"
    history.record(3.0, (8, 8), torch.full((1, 64, 3), 2.0 + slope))
    predicted, held = (history.estimate(4.0, (16, 16), predict=each) for each in (True, False))
    assert torch.allclose(predicted, torch.tensor(2.0 + 2 * slope)) and torch.equal(held, torch.full_like(held, 2.25))
    assert torch.equal(history.estimate(9.0, (16, 16), predict=True), predicted), "no further than the gap"
    assert history.bytes == 4 * 3 * (16 + 64)


def test_a_residual_that_turns_is_held():
    history = GridHistory()
    history.record(1.0, (2, 2), torch.full((1, 4, 2), -5.0))
    history.record(2.0, (2, 2), torch.full((1, 4, 2), 1.0))
    assert torch.equal(history.estimate(3.0, (2, 2), predict=True), torch.full((1, 4, 2), 1.0))


def test_tokens_with_detail_are_chosen():
    x = torch.zeros(2, 64, 4)
    x[:, [9, 50]] = 5.0  # two bright tokens on a dark picture
    assert detailed(x, (8, 8), 2).tolist() == [9, 50]


# What has changed upstream.

FAKE = ROOT / "tests" / "fakes" / "infinity"
LOOP, BLOCKS = "infinity/models/infinity.py", "infinity/models/basic.py"


@pytest.mark.parametrize(
    ("file", "old", "new", "failed"),
    [
        (LOOP, "trunk_scale", "scales_at_the_most", "is asked for what we read: no parameter trunk_scale"),
        (LOOP, "get_logits", "logits_of", "method Infinity.get_logits"),
        (LOOP, "scale_ind=si", "**{'scale' + '_ind': si}", "loops over scales as we know it: no scale_ind"),
        (
            LOOP,
            "self.block_chunks = nn.ModuleList(self",
            "self.block_chunks = list(self",
            "has block_chunks, a ModuleList",
        ),
        (BLOCKS, "scale_ind", "step", "parameters of CrossAttnBlock.forward: no parameter scale_ind"),
        (
            BLOCKS,
            "class CrossAttnBlock(nn.Module)",
            "class CrossAttnBlock(torch.jit.Thing)",
            "CrossAttnBlock is a Module",
        ),
    ],
)
def test_what_has_changed_upstream_is_refused_by_name(tmp_path, file, old, new, failed):
    shutil.copytree(FAKE, tmp_path / "clone")
    text = (tmp_path / "clone" / file).read_text()
    assert old in text
    (tmp_path / "clone" / file).write_text(text.replace(old, new))
    host = known_host("infinity")
    assert signature.failures(signature.check_static(host, FAKE)) == []
    found = signature.failures(signature.check_static(host, tmp_path / "clone"))
    assert any(failed in each for each in found), found


# Settings, registry, report.


def test_the_registry_file_is_short_and_imports_no_torch(run_python):
    assert len((ROOT / "registry" / "infinity.py").read_text().splitlines()) <= 60
    done = run_python("-c", "import sys; from scope_patch.registry import infinity; print('torch' in sys.modules)")
    assert done.stdout.split() == ["False"], done.stderr


def test_the_small_models_weights_are_small():
    files = list((ROOT / "examples" / "infinity_demo" / "weights").iterdir())
    assert len(files) == 3 and sum(file.stat().st_size for file in files) <= 4e6


def recorded():
    run = Run(Settings(), ["infinity"])
    record = GenerationRecord(finished=True, forwards_run=2, forwards_skipped=1)
    record.planned = [{"work": 1.0, "baseline": 2.0, "unit": "flops", "target": 2.0}]
    record.segments = [
        Segment(3, list("RRC"), ["plan"] * 3, [(0, 1)] * 3, 42, 10, frames=1, active=[[0, 1]] * 3, steps=SCALES)
    ]
    run.generations.append(record)
    return run


def test_the_report_speaks_of_scales():
    report = parse(json.loads(json.dumps(recorded().report)))
    words = summary.text(report)
    assert "passes of the blocks 3 -> 2, tokens 42 -> 10" in words and "segment 1: 3 scales\n" in words
    assert "MB of residuals kept" in words and "latent frames 42" not in words
    drawn = page.page(report)
    assert "passes of the blocks" in drawn and ">scale</text>" in drawn and "iteration 0:" not in drawn


def test_a_parse_strange_steps_is_refused():
    found = json.loads(json.dumps(recorded().report))
    found["generations"][0]["segments"][0]["steps"] = "leaps"
    with pytest.raises(UsageError, match="'steps' is 'leaps'"):
        parse(found)
