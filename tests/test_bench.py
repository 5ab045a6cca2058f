"""The bench on a tiny suite: it runs once, resumes, survives broken lines and failures, writes table and figure."""

from __future__ import annotations

import json
import math
import re
import sys

import pytest
import torch
from conftest import ROOT
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(ROOT / "examples"))

import bench
import paper
from benchmark import demo, figures, hosts, prompts, suites
from benchmark.demo import CALIBRATED, Demo
from benchmark.suites import NEVER, Suite
from benchmark.watch import Timed, no_waiting
from benchmark.work import Work
from demo_model import text
from scope_patch.settings import Settings
from scope_patch.tuning import results
from scope_patch.tuning.points import Point, parse
from scope_patch.tuning.tables import Group, Mean

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
        tiny("reduced steps", "slow: 4 steps", NEVER, 2, num_inference_steps=4),
        tiny("a rival", "any", {"policy": "nobody-has-this:key=1"}, 2),
        tiny("a failure", "any", NEVER, 2, guidance_scale="no number"),
    ),
    figure=True,
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
    monkeypatch.setattr(demo, "CALIBRATION", prompts.CALIBRATION[:1])
    made = []
    make = Demo.make
    monkeypatch.setattr(Demo, "make", lambda self, job, folder: made.append(job.point.name) or make(self, job, folder))
    assert go(tmp_path) == 0
    told = (tmp_path / "tiny.md").read_text()
    assert made == ["", "one skip", "four skips", "target 2", "slow: 4 steps", "any"]
    path = tmp_path / "runs.jsonl"
    rows = {(row["method"], row["point"]): row for row in map(json.loads, path.read_text().splitlines())}
    assert [row["status"] for row in rows.values()].count("ok") == 5
    assert rows["original", ""]["flops"] == 2 * rows["reduced steps", "slow: 4 steps"]["flops"]
    assert rows["scope", "one skip"]["psnr"] > rows["scope", "four skips"]["psnr"]
    assert "## Against scope" in told and "* failed: a failure, any: TypeError" in told
    assert "left out: a rival, any: there is no policy 'nobody-has-this" in told
    picture = (tmp_path / "tiny.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) < 150_000

    # An interruption cut the last line that went well. It is made again; so is what failed, every time.
    lines = [line for line in path.read_text().splitlines() if "a failure" not in line and "a rival" not in line]
    path.write_text("\n".join([*lines[:-1], lines[-1][:50]]))
    capsys.readouterr(), made.clear()
    assert go(tmp_path) == 0
    assert made == ["slow: 4 steps", "any"]
    assert "1 line of the log could not be read" in (tmp_path / "tiny.md").read_text()
    picture = (tmp_path / "tiny.png").read_bytes()

    monkeypatch.setattr(hosts, "build", None)  # tables need no model
    (tmp_path / "tiny.png").unlink()
    made.clear()
    assert go(tmp_path, "--tables-only") == 0
    assert (tmp_path / "tiny.png").read_bytes() == picture and made == []

    # Another version of our code: what did not change is carried over, the rest is made, with its original.
    monkeypatch.undo()
    monkeypatch.setitem(suites.SUITES, "tiny", TINY)
    monkeypatch.setattr(demo, "code", lambda: "another")
    monkeypatch.setattr(Demo, "make", lambda self, job, folder: made.append(job.point.name) or make(self, job, folder))
    assert go(tmp_path / "anew", "--carry", str(path), "--anew", "scope", "a failure") == 0
    assert made == ["", "one skip", "four skips", "any"]
    lines = (tmp_path / "anew" / "runs.jsonl").read_text().splitlines()
    carried = {(row["method"], row["point"]): row for row in map(json.loads, lines)}
    for name in (("reduced steps", "slow: 4 steps"), ("scope", "one skip")):
        assert carried[name]["psnr"] == rows[name]["psnr"] and carried[name]["options"] != rows[name]["options"]


def test_an_unknown_method_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        bench.main(["steps", "--only", "scoop"])
    assert "it has: 'scope'" in capsys.readouterr().err


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
    rows = {("a prompt", seed): {"psnr": value, "flops": 1.0} for seed, value in enumerate(values)}
    originals = {video: {"flops": ratio} for video in rows}
    return Group(("demo", method, "any"), rows, originals, [])


def test_ours_is_interpolated_in_the_logarithm_video_by_video():
    ours = [group("scope", 2, [40, 50]), group("scope", 8, [20, 30])]
    found = results.difference(ours, group("b", 4, [29, 41]), "psnr")  # ours at 4: 30, 40
    assert (found.mean, found.error) == (pytest.approx(0), pytest.approx(1))
    assert results.difference(ours, group("b", 1.9, [1, 1]), "psnr") is None
    assert results.difference(ours, group("b", 1.99, [40, 50]), "psnr").mean == 0
    assert results.verdict(Mean(-1.234, 0.4), 2, " dB") == "below by 1.23 ± 0.40 dB"
    assert results.verdict(Mean(1.234, math.nan), 2, " dB") == "above by 1.23 dB (one video)"


def test_an_aim_beyond_a_methods_range_counts_once():
    same = [group("b", 4, [29, 41]), group("b", 4, [29, 41]), group("c", 4, [29, 41]), group("b", 4, [29, 40])]
    assert results.distinct(same) == [same[0], same[2], same[3]]


def test_every_method_is_drawn_its_own_way():
    made = figures._looks(["scope", "hold", "taylor1", "teacache"])
    assert len({look[0] for look in made.values()}) == len({look[1] for look in made.values()}) == 4


# The paper's tables


@pytest.mark.parametrize("host", paper.PAIRS)
@pytest.mark.parametrize("table", paper.TABLES)
def test_the_papers_tables_are_bench_commands(table, host, tmp_path, capsys):
    config = {"runtime_config": {"num_frames": 96, "num_steps": 8, "window_size": 4}, "engine_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = [table, "--host", host, "--repo", str(tmp_path), "--config", "config.json", "--prompts", "prompts.txt"]
    assert paper.main([*words, "--folder", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == (len(paper.LENGTHS[host]) if table == "figure-8" else 1)
    for line in told:
        ours, _, command = line.partition(" -- ")
        methods = ours.partition("--methods ")[2].split()
        for method in methods:
            Settings(**parse(method).settings)
        assert methods and "{prompt}" in command and "{out}" in command
    if host == "magi-1":
        written = json.loads((tmp_path / "out" / "magi-1-240.json").read_text()) if table != "figure-8" else None
        assert written is None or written["runtime_config"]["num_steps"] == 64


def cells(told, method, what):
    """The other cells of a line of a table in Markdown."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in told.splitlines() if line[:1] == "|"]
    return next(line[2:] for line in lines if line[:2] == [method, what])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"scope:fast": {"lpips": 0.1}}', "no figure is of lpips: they are of DiT work, times"),
        ('{"nobody:1": {"times": 2}}', "nobody"),
        ('{"scope:fast": {"times": "much"}}', "is not JSON of the form {method: {quantity: number}}"),
        ('{"scope:fast": 2}', "is not JSON of the form"),
        ("4.73 times", "is not JSON of the form"),
    ],
)
def test_figures_that_are_none_say_so(text, words, tmp_path):
    (tmp_path / "runs.jsonl").write_text("")
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(SystemExit, match=re.escape(words)):
        paper.main(["--tell", str(tmp_path), "--figures", str(tmp_path / "table.json")])


def test_every_figure_of_the_paper_has_a_method_a_quantity_and_a_source():
    for methods in paper.PAPER.values():
        for method, printed in methods.items():
            assert method == "original" or parse(method).settings is not None
            assert printed.keys() <= paper.QUANTITIES.keys()
            assert {source for _, source in printed.values()} <= paper.FROM.keys()


def test_measured_stands_beside_the_papers_and_videos_are_laid_out_for_vbench(tmp_path, capsys):
    common = {"host": "", "options": "", "video": {}, "status": "ok", "failures": {}, "x": None, "seed": 0}
    each = {"psnr": [40.0], "ssim": [1.0], "lpips": [None]}
    near = {"psnr": 40.0, "ssim": 0.9, "lpips": None}
    lines = []
    for prompt in ("a disc", "a ring / two"):
        for method, point, flops in (("original", "", 2e17), ("scope", "fast", 4e16)):
            folder = f"runs/{method}{len(prompt)}"
            (tmp_path / folder / "out").mkdir(parents=True)
            (tmp_path / folder / "out" / "video_17.mp4").write_bytes(b"")
            row = {"prompt": prompt, "method": method, "point": point, "flops": flops, "seconds": flops, "each": each}
            row |= {"memory": 3e9 + len(prompt) * 1e8, **(near if point else {})}
            lines.append({**common, **row, "folder": folder, "outputs": ["out/video_17.mp4"]})
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert paper.main(["--tell", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert cells(told, "scope:fast", "DiT work") == ["5.27", "5.00", "notes"]
    assert cells(told, "scope:fast", "PFLOP") == ["46.45", "40.00", "notes"]
    assert cells(told, "scope:fast", "times") == ["4.73", "5.00", "summary"]
    assert cells(told, "scope:fast", "VBench off") == ["0.06", "not in this folder", "summary"]
    assert cells(told, "scope:slow", "DiT work") == ["4.55", "not in this folder", "notes"]
    assert cells(told, "original", "PFLOP") == ["245.01", "200.00", "notes"]
    assert all(f"\n{source}: {words}" in told for source, words in paper.FROM.items())
    typed = {
        "scope:fast": {"LPIPS": 0.1, "SSIM": 0.8, "PSNR": 25, "peak GB": 9, "times": 4.7},
        "original": {"seconds": 9},
    }
    (tmp_path / "table.json").write_text(json.dumps({**typed, "teacache:0.2": {"times": 2}}))
    assert paper.main(["--tell", str(tmp_path), "--figures", str(tmp_path / "table.json")]) == 0
    told = capsys.readouterr().out
    assert cells(told, "scope:fast", "times") == ["4.70", "5.00", "table.json"]
    assert cells(told, "scope:fast", "DiT work") == ["5.27", "5.00", "notes"]
    assert cells(told, "scope:fast", "LPIPS") == ["0.1000", "not in this folder", "table.json"]
    assert cells(told, "scope:fast", "SSIM") == ["0.8000", "0.9000", "table.json"]
    assert cells(told, "scope:fast", "PSNR") == ["25.00", "40.00", "table.json"]
    assert cells(told, "scope:fast", "peak GB") == ["9.00", "4.20", "table.json"]
    assert cells(told, "original", "seconds") == ["9.0", f"{2e17:.1f}", "table.json"]
    assert cells(told, "teacache:0.2", "times") == ["2.00", "not in this folder", "table.json"]
    assert paper.main(["--vbench", str(tmp_path)]) == 0
    assert "vbench evaluate --mode custom_input" in capsys.readouterr().out
    for method in ("original", "scope-fast"):
        names = json.loads((tmp_path / "vbench" / f"{method}.json").read_text())
        assert names == {"a disc-0.mp4": "a disc", "a ring   two-0.mp4": "a ring / two"}
        assert {path.name for path in (tmp_path / "vbench" / method).iterdir()} == names.keys()
