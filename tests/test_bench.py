"""The bench on a tiny suite: it runs once, resumes, survives broken lines and failures, writes table and figure."""

from __future__ import annotations

import json
import math
import sys
from itertools import pairwise

import pytest
import torch
from conftest import ROOT
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(ROOT / "examples"))

from benchmark.points import CALIBRATED, Point, Suite

import bench
from benchmark import charts, check, hosts, log, looks, prompts, references, suites, sums
from benchmark.watch import Timed, no_waiting
from benchmark.work import Work
from benchmark.worker import Worker
from demo_model import text

VIDEO = {"num_frames": 17, "num_inference_steps": 8}
PREDICT = {"cache_threshold": 0.0, "predict_threshold": 1e9}


def tiny(method, name, settings, x, **instead):
    return Point(method, name, settings, instead, VIDEO, x=x)


TINY = Suite(
    "A tiny suite.",
    (
        tiny("scope", "one skip", {**PREDICT, "max_skip": 1}, 1),
        tiny("scope", "four skips", {**PREDICT, "max_skip": 4}, 4),
        tiny("scope, calibrated", "target 2", {"target_speedup": 2, "profile": CALIBRATED}, 2),
        tiny("reduced steps", "slow: 4 steps", None, 2, num_inference_steps=4),
        tiny("a rival", "any", {"policy": "nobody-has-this:key=1"}, 2),
        tiny("a failure", "any", None, 2, guidance_scale="no number"),
    ),
    figure="lines",
    axis="most skips",
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # the bench sets its own


def go(folder, *more):
    return bench.main(["tiny", "--out", str(folder), "--prompts", "1", "--seeds", "1", *more])


def test_a_suite_is_made_once_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(suites.SUITES, "tiny", TINY)
    monkeypatch.setattr("benchmark.worker.CALIBRATION", prompts.CALIBRATION[:1])
    made = []
    run = Worker.run
    monkeypatch.setattr(Worker, "run", lambda self, job: made.append(job.point.name) or run(self, job))
    assert go(tmp_path) == 0
    told = (tmp_path / "tiny.md").read_text()
    assert len(made) == 5
    path = tmp_path / "tiny.jsonl"
    rows = {(row["method"], row["point"]): row for row in map(json.loads, path.read_text().splitlines())}
    assert [row["status"] for row in rows.values()].count("ok") == 4
    slow = rows["reduced steps", "slow: 4 steps"]
    assert slow["reference"]["flops"] == 2 * slow["flops"]
    assert rows["scope", "one skip"]["psnr"] > rows["scope", "four skips"]["psnr"]
    assert "## Table 1" in told and "## Against scope" in told and "* failed: a failure, any: TypeError" in told
    assert "not available here: a rival, any: there is no policy 'nobody-has-this" in told
    picture = (tmp_path / "tiny.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) < 150_000

    # An interruption cut the last line that went well. It is made again; so is what failed, every time.
    lines = [line for line in path.read_text().splitlines() if "a failure" not in line]
    path.write_text("\n".join([*lines[:-1], lines[-1][:50]]))
    capsys.readouterr(), made.clear()
    assert go(tmp_path) == 0
    assert made == ["slow: 4 steps", "any"]
    assert "1 line of the log could not be read" in (tmp_path / "tiny.md").read_text()
    made.clear()
    assert go(tmp_path) == 0
    assert made == ["any"]
    picture = (tmp_path / "tiny.png").read_bytes()

    monkeypatch.setattr(Worker, "__init__", None)  # tables need no model
    (tmp_path / "tiny.png").unlink()
    assert go(tmp_path, "--tables-only") == 0
    assert (tmp_path / "tiny.png").read_bytes() == picture


def test_an_unknown_method_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        bench.main(["steps", "--only", "scoop"])
    assert "it has: 'scope'" in capsys.readouterr().err


def test_rows_of_other_settings_or_weights_stay_out(tmp_path):
    point = TINY.points[0]
    kept = log.Log(tmp_path / "x.jsonl")
    row = dict.fromkeys(log.KEY, "") | {"host": point.host, "method": point.method, "point": point.name}
    kept.add({**row, "options": "of old", "status": "ok"})
    assert kept.of(TINY.points) == ([], 1)


def test_a_broken_reference_is_none(tmp_path):
    path = tmp_path / "x.pt"
    assert references.load(path) is None
    for content in (b"", b"PK\x03\x04 cut", b"nothing"):
        path.write_bytes(content)
        assert references.load(path) is None
    torch.save({"video": torch.zeros(1)}, path)
    assert references.load(path) is None


def test_work_is_what_torch_counts():
    from demo_model import pipeline

    pipe = pipeline.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer._set_ar_attention = lambda size: None
    pipe.transformer.register_to_config(num_frame_per_block=1)  # torch counts masked pairs too
    with Work(pipe.transformer) as work, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        pipeline.sample(pipe, "a red disc", num_frames=17, num_inference_steps=3, ar_step=1)
    of_text = counter.get_flop_counts()["DemoTextEncoder"]
    assert work.flops == counter.get_total_flops() - sum(of_text.values())
    assert (work.forwards, work.frames) == (6, 30)
    assert not any(module._forward_hooks for module in pipe.transformer.modules())


def test_watching_sees_every_entry(monkeypatch):
    """gpu.py, sync.py and the study of overhead look at us through the guard; torch's switch needs CUDA."""
    import scope_patch
    from demo_model import pipeline

    pipe = hosts.build("demo")
    switched = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", switched.append)
    with Timed() as timed, no_waiting() as watched, scope_patch.patched(pipe, **PREDICT, strict=True) as run:
        pipeline.sample(pipe, "a red disc", callback_on_step_end=timed.callback, ar_step=1, **VIDEO)
    modes = run.report["generations"][0]["segments"][0]["modes"]
    skipped, computed = (timed.milliseconds(modes, letters, 2) for letters in ("CP", "R"))
    assert skipped and computed and len(skipped) + len(computed) == len(modes)
    assert all(spent > 0 for spent in skipped + computed)
    assert watched[0] >= len(modes) and switched.count("error") == watched[0] and switched[-1] == "default"


def test_prompts_are_known_words_and_used_for_nothing_else():
    everything = [*prompts.PROMPTS, *prompts.CALIBRATION]
    assert len(prompts.PROMPTS) >= 16 and len(set(everything)) == len(everything)
    assert not set(everything) & {*prompts.TUNING, *prompts.TUNING_CALIBRATION}
    assert all(text.split_prompt(prompt)[1] == [] for prompt in everything)
    videos = prompts.videos(16, 2)
    assert len(videos) == len({seed for _, seed in videos}) == 32


@pytest.mark.parametrize("suite", suites.SUITES.values(), ids=suites.SUITES)
def test_points_have_names_of_their_own(suite):
    names = [(point.host, point.method, point.name) for point in suite.points]
    assert len(names) == len(set(names))


def group(method, ratio, values):
    rows = {
        ("a prompt", seed): {"psnr": value, "flops": 1.0, "reference": {"flops": ratio}, "x": None}
        for seed, value in enumerate(values)
    }
    return sums.Group(("demo", method, "any"), rows, [])


def test_ours_is_interpolated_in_the_logarithm_video_by_video():
    ours = [group("scope", 2, [40, 50]), group("scope", 8, [20, 30])]
    found = check.difference(ours, group("b", 4, [29, 41]), "psnr")  # ours at 4: 30, 40
    assert (found.mean, found.error) == (pytest.approx(0), pytest.approx(1))
    assert check.difference(ours, group("b", 1.9, [1, 1]), "psnr") is None
    assert check.difference(ours, group("b", 1.99, [40, 50]), "psnr").mean == 0
    assert check.verdict(sums.Mean(-1.234, 0.4, 0), 2, " dB") == "below by 1.23 ± 0.40 dB"
    assert check.verdict(sums.Mean(1.234, math.nan, 0), 2, " dB") == "above by 1.23 dB (one video)"


def test_an_aim_beyond_a_methods_range_counts_once():
    same = [group("b", 4, [29, 41]), group("b", 4, [29, 41]), group("c", 4, [29, 41]), group("b", 4, [29, 40])]
    assert check.distinct(same) == [same[0], same[2], same[3]]


def test_every_method_is_drawn_its_own_way():
    made = looks.looks(["scope", "hold", "taylor1", "teacache"])
    assert len({look.colour for look in made.values()}) == len({look.marker for look in made.values()}) == 4
    heights = sorted(charts.spread({"a": 0.5, "b": 0.5, "c": 0.51, "d": 0.0}).values())
    assert min(high - low for low, high in pairwise(heights)) == pytest.approx(charts.GAP)
