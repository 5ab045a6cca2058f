"""`tune` and `bench`: the search and its law, the harness on a counted maker, both commands on a user's script."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, clean_environ
from hosts import fake_pipeline
from hypothesis import given
from hypothesis import strategies as st

import scope_patch
from scope_patch.cli import main
from scope_patch.errors import UsageError
from scope_patch.tuning import _given, outputs, results
from scope_patch.tuning.commands import Command, flags
from scope_patch.tuning.functions import as_videos
from scope_patch.tuning.harness import Made, Maker, Progress, at_work
from scope_patch.tuning.points import Job, parse, target
from scope_patch.tuning.search import CLOSE, LEAST, MOST, Bounds, Search, find, rung

SCRIPT = [sys.executable, str(ROOT / "tests" / "filming.py")]


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    for name in set(os.environ) - set(clean_environ()):
        monkeypatch.delenv(name)
    monkeypatch.setattr("scope_patch.compare.lpips.FOLDER", "nowhere")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    yield
    signal.signal(signal.SIGTERM, before)  # the command takes it for Ctrl-C


def lines(folder="scope_tune"):
    return [json.loads(line) for line in Path(folder, "runs.jsonl").read_text(encoding="utf-8").splitlines()]


# The search


@given(edge=st.floats(1.0, 25.0), steep=st.floats(0.2, 8), curve=st.floats(0.3, 3))
def test_on_a_falling_curve_the_answer_is_the_last_that_keeps_the_bound(edge, steep, curve):
    """Slack as a power of the distance in the logarithm: steep, flat or bent at the crossing."""

    def slack(aim):
        distance = math.log(edge / aim)
        return math.copysign(abs(distance) ** curve, distance) * steep

    found, runs = Search(), 0
    while (aim := found.next) is not None:
        found.note(aim, slack(aim))
        runs += 1
    assert runs <= 13
    within = [aim for aim in found.slacks if slack(aim) >= 0]
    assert found.low == (max(within) if within else None)
    if found.low is None:
        assert edge < LEAST
    elif found.high is None:
        assert found.low == MOST
    else:
        assert found.low <= edge < found.high
        assert found.high / found.low <= CLOSE or found.high <= rung(found.low + 0.06)


def test_where_nothing_more_is_skipped_the_search_ends():
    found = Search()
    for aim, decisions in ((3.0, "a"), (4.5, "b"), (6.8, "c"), (10.2, "c")):
        assert found.next == aim
        found.note(aim, 1.0, decisions)
    assert found.next is None and found.ceiling == found.best == 6.8


def test_a_dent_is_seen():
    assert Search({3.0: 0.5, 4.5: 0.55, 6.0: -1.0}).dent is None
    assert Search({3.0: 0.5, 7.7: -0.4, 8.0: -0.2}).dent == (7.7, 8.0)


# Points, bounds


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("scope:3", {"target_speedup": 3.0}),
        ("scope:fast", {"preset": "fast"}),
        ("scope:target_speedup=3", {"target_speedup": 3.0}),
        ("scope:4,predictor=hold", {"target_speedup": 4.0, "predictor": "hold"}),
        ("scope-thresholds:0.18,0.42", {"cache_threshold": 0.18, "predict_threshold": 0.42}),
        ("scope-thresholds:target_speedup=3", {"placement": "threshold", "target_speedup": "3"}),
        ("teacache:0.1", {"policy": "teacache:teacache_thresh=0.1"}),
        ("taylorseer:4,max_order=2", {"policy": "taylorseer:max_order=2,interval=4"}),
        ("flowcache:target_speedup=2", {"policy": "flowcache", "target_speedup": "2"}),
        ("steps:10", {"policy": "never"}),
    ],
)
def test_methods(text, settings):
    from scope_patch.settings import Settings

    point = parse(text)
    assert point.settings == settings and point.instead == ({"steps": "10"} if text == "steps:10" else {})
    Settings(**point.settings)
    assert flags(point.settings)


def test_a_switch_is_what_it_says():
    assert flags({"replay": "on", "selective": "yes", "per_chunk": "0"}) == [
        "--replay",
        "--selective",
        "--no-per-chunk",
    ]
    assert flags({"strict": "1"}) == ["--strict"] and flags({"strict": "off"}) == []


@pytest.mark.parametrize("text", ["scoop:3", "scope:3,4", "scope:x", "scope-thresholds:1", "steps", "scope:3,blocks=2"])
def test_methods_that_are_none(text):
    with pytest.raises(UsageError):
        parse(text)


def test_a_target_is_one_and_the_same_run_for_both_commands():
    assert Job(parse("scope:3")).key("x") == Job(target(3)).key("x")
    assert Job(parse("scope:3")).key("x") != Job(parse("scope:3").under({"predictor": "hold"})).key("x")


def test_the_original_knows_the_users_host_and_nothing_else():
    point = target(3).under({"registry": "my.py", "predictor": "hold"})
    assert point.original.settings == {"policy": "never", "registry": "my.py"}
    assert point.original.original.settings == point.original.settings


def test_bounds():
    row = {"status": "ok", "psnr": 40.0, "ssim": 0.99, "lpips": None, "seconds": 2.0}
    assert Bounds(psnr=30).slack([row]) == pytest.approx(1) and Bounds(ssim=0.9).slack([row]) == pytest.approx(1)
    assert Bounds(psnr=41).slack([row]) < 0 < Bounds(psnr=39, ssim=0.98).slack([row])
    assert Bounds(seconds=1).slack([row]) > 0 > Bounds(seconds=2).slack([row]), (
        "too slow is `within`, as low targets are"
    )
    assert Bounds(psnr=30).slack([row | {"status": "failed"}]) < 0
    with pytest.raises(UsageError, match="weights that are not installed"):
        Bounds(lpips=0.05)
    for bad in ({"ssim": 1.0}, {"psnr": -1}, {"seconds": 0}):
        with pytest.raises(UsageError, match="can never be a bound"):
            Bounds(**bad)


# The harness


class Counted(Maker):
    """A maker whose error grows with the target; fails where it is told to."""

    name, measured, fingerprint = "counted", "by nothing", "1"

    def __init__(self, edge=1e-3, broken=()):
        self.made, self.edge, self.broken = [], edge, broken

    def available(self, job):
        return "never heard of it" if job.point.method == "a stranger" else ""

    def make(self, job, folder):
        self.made.append((job.point.name, job.prompt, job.seed))
        if job.point.name in self.broken:
            raise RuntimeError("on purpose")
        aim = job.point.x or 1.0
        error = self.edge * (job.point.x or 0.0)
        video = torch.linspace(-1, 1, 64).reshape(1, 4, 1, 4, 4) + error
        numbers = {"seconds": 10 / aim, "dit": 8 / aim, "wall": 12.0, "forwards": 10, "flops": 100 / aim, "bytes": 5}
        return Made([video], numbers)


def test_a_run_is_made_once_and_a_cut_line_again(tmp_path):
    maker, folder = Counted(broken=("target 4",)), tmp_path / "x"
    wanted = [Job(target(aim), prompt) for prompt in "ab" for aim in (2, 3, 4)]

    def go():
        maker.made.clear()
        with at_work(maker, folder) as harness:
            return harness, [harness.run(job)["status"] for job in wanted]

    harness, statuses = go()
    assert len(maker.made) == 8 and statuses == ["ok", "ok", "failed"] * 2
    told = results.text("a command", harness, [target(2), target(3), target(4)])
    assert "| scope    | target 2 | 2 " in told and "failed: scope, target 4: RuntimeError: on purpose" in told
    log = folder / "runs.jsonl"
    kept = log.read_text().splitlines()
    log.write_text("\n".join([kept[0], kept[1][:40], "nonsense", *kept[2:]])[:-9])
    go()
    # What failed is tried again, what was cut is made again; the last line had failed.
    assert sorted(maker.made) == [("target 2", "a", 0), ("target 4", "a", 0), ("target 4", "b", 0)]
    with at_work(maker, folder) as harness:
        assert "3 lines of the log could not be read" in results.text("a command", harness, [target(2)])
    for path in (folder / "runs").rglob("*.pt"):
        path.unlink()
    with at_work(maker, folder) as harness:  # what is there needs no original; a new target does
        maker.made.clear()
        assert harness.run(wanted[0])["status"] == "ok" and maker.made == []
        assert harness.run(Job(target(5), "a", 0))["status"] == "ok" and len(maker.made) == 2


@pytest.mark.parametrize(
    ("bounds", "broken", "expected", "words"),
    [
        # 20 log10(2 / error), the range of the video being 2: 0.004 is 54 dB, so that target 4 is the last one.
        (Bounds(psnr=53.97), (), (3.8, 4.05), "times faster"),
        (Bounds(psnr=53.97, seconds=1), (), (3.8, 4.05), "no target keeps PSNR >= 53.97 dB, 1 s at most"),
        (Bounds(psnr=90), (), None, "cannot be reached: at target 1.2 there are PSNR 64.44 dB"),
        (Bounds(seconds=2), (), (5, 5.3), "is too slow"),
        (Bounds(seconds=0.1), (), None, "cannot be reached: the original takes 10.0 s"),
        (Bounds(seconds=11), (), None, "the original already takes 10.0 s: nothing to do"),
        (Bounds(), (), (20, 20), "times faster"),
        (Bounds(psnr=40), ("target 4.5",), (4.25, 4.45), "target 4.5 is beyond the bound (RuntimeError: on purpose)"),
    ],
    ids=str,
)
def test_what_is_found(bounds, broken, expected, words, tmp_path):
    maker = Counted(broken=broken)
    with at_work(maker, tmp_path) as harness:
        answer = find(harness, [("a", 0), ("b", 1)], bounds, {}, math.inf)
    assert words in answer.words, answer.words
    assert (answer.target is None) == (expected is None)
    if expected is not None:
        rows = answer.rows[answer.target]
        kept = (bounds.by_time or bounds.slack(rows) >= 0) and bounds.fast_enough(rows)
        assert expected[0] <= answer.target <= expected[1] and kept == ("no target keeps" not in words)
        assert answer.times(answer.target) == pytest.approx(answer.target)
    assert len(maker.made) <= 2 * 10


def test_two_writers_are_one_too_many(tmp_path):
    maker = Counted()
    refused = pytest.raises(UsageError, match="another process is writing")
    with at_work(maker, tmp_path), refused, at_work(maker, tmp_path):
        pass
    with at_work(maker, tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"), at_work(maker, tmp_path / "file"):
        pass


def test_a_stranger_is_left_out_by_name(tmp_path):
    from scope_patch.tuning.points import Point

    with at_work(Counted(), tmp_path) as harness:
        stranger = Point("a stranger", "x", {})
        harness.run(Job(stranger)), harness.run(Job(target(2)))
        assert "left out: a stranger, x: never heard of it" in results.text("x", harness, [target(2), stranger])


# What a run leaves


def test_placeholders_are_filled_in_one_pass():
    command = Command([sys.executable, "--p={prompt}/{seed}", "{out}/{steps}{other}"], steps="7")
    words = ["--p=a {seed}\\1/3", "out/7{other}"]
    assert command.filled("out", "a {seed}\\1", 3, "7")[1:] == words


def test_files_are_paired_by_name_or_by_time(tmp_path):
    for run, names in (("a", ("x_10.mp4", "b_11.mp4")), ("b", ("x_12.mp4", "b_13.mp4"))):
        (tmp_path / run).mkdir()
        for k, name in enumerate(names):
            (tmp_path / run / name).write_bytes(b"")
            os.utime(tmp_path / run / name, (k, k))
    a, b = (outputs.collected(tmp_path / run) for run in "ab")
    assert [(x.name, y.name) for x, y in outputs.paired(a, b, tmp_path / "a", tmp_path / "b")] == [
        ("x_10.mp4", "x_12.mp4"), ("b_11.mp4", "b_13.mp4"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="wrote 1 files, and the original 2"):
        outputs.paired(a, b[:1], tmp_path / "a", tmp_path / "b")


def test_of_a_working_directory_only_what_appears_is_taken(tmp_path):
    """Pictures that a command leaves where it works, beside clones, weights and links to nowhere."""
    ours = tmp_path / "scope_tune" / "runs" / "1"
    (tmp_path / "old.png").write_bytes(b"of before")
    (tmp_path / "lost.mp4").symlink_to(tmp_path / "gone.mp4")
    before = outputs.Snapshot(tmp_path, ours)
    for name in ("000.png", "001.png"):
        (tmp_path / name).write_bytes(b"new")
    assert before.changed(ours / "out") == [ours / "out"]
    assert sorted(path.name for path in (ours / "out").rglob("*")) == ["000.png", "001.png"]


def test_variables_are_settings_of_a_run_like_options(monkeypatch, capsys):
    monkeypatch.setenv("SCOPE_PATCH_PREDICTOR", "hold")
    assert _given(argparse.Namespace(action="tune", max_skip=4)) == {"predictor": "hold", "max_skip": 4}
    monkeypatch.setenv("SCOPE_PATCH_POLICY", "taylorseer")
    assert main(["tune", "--", *SCRIPT]) == 2
    assert "SCOPE_PATCH_POLICY says; unset it" in capsys.readouterr().err


def test_a_profile_that_was_measured_anew_makes_new_runs(tmp_path):
    commands = []
    for text in ("old", "new", "new"):
        (tmp_path / "mine.json").write_text(text)
        commands.append(Command(SCRIPT, files=["mine.json"]).fingerprint)
    assert commands[0] != commands[1] == commands[2]


def test_progress_without_stderr(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    Progress().told("a run")
    assert capsys.readouterr().out == ""


def test_what_a_pipeline_returns():
    from PIL import Image

    frames = torch.arange(5 * 8 * 8 * 3).reshape(5, 8, 8, 3).remainder(256).to(torch.uint8)
    floats = frames / 255
    shapes = [
        frames,
        frames.numpy(),
        floats,
        floats.movedim(-1, 1)[None],  # [B, F, C, H, W], as diffusers' output_type "pt"
        floats.movedim(-1, 0)[None],  # [B, C, F, H, W]
        [Image.fromarray(frame.numpy()) for frame in frames],
        [[Image.fromarray(frame.numpy()) for frame in frames]],
        type("Output", (), {"frames": floats.numpy()[None]})(),
    ]
    for made in shapes:
        (video,) = as_videos(made)
        assert torch.equal(video, frames)
    latents = torch.randn(1, 16, 5, 8, 8)
    assert torch.equal(as_videos((latents,))[0], latents)
    assert len(as_videos(floats.movedim(-1, 1)[None].repeat(2, 1, 1, 1, 1))) == 2
    for bad in ("text", torch.zeros(0), frames.long(), floats * 2, None):
        with pytest.raises(UsageError):
            as_videos(bad)


def test_a_preview_is_three_pictures(tmp_path):
    from scope_patch.compare.read import read

    video = torch.randint(0, 255, (4, 32, 40, 3), dtype=torch.uint8)
    made = outputs.draw(video, video, tmp_path / "preview")
    assert list(read(made).shape) == [4, 128, 3 * 160 + 2 * outputs.GAP, 3]
    assert outputs.draw(video[:1], video[:1], tmp_path / "preview").suffix == ".png"
    assert outputs.draw(torch.zeros(1, 4, 1, 2, 2), torch.zeros(1, 4, 1, 2, 2), tmp_path / "x") is None
    wide = torch.zeros(2, 544, 960, 3, dtype=torch.uint8)
    assert list(read(outputs.draw(wide, wide, tmp_path / "wide")).shape[1:3]) == [180, 3 * 320 + 2 * outputs.GAP]


# The commands


def test_tune_finds_it_says_it_and_goes_on(tmp_path, capsys):
    words = ["tune", "--psnr", "42", "--", *SCRIPT, "--out", "{out}", "--touch", str(tmp_path / "runs")]
    assert main(words) == 0
    told, _ = capsys.readouterr()
    rows = lines()
    by_target = {row["x"]: row for row in rows if row["method"] == "scope"}
    within = [aim for aim, row in by_target.items() if row["psnr"] >= 42]
    answer = max(within)
    assert answer < min(aim for aim, row in by_target.items() if row["psnr"] < 42) <= rung(answer * CLOSE + 0.05)
    assert f"use `--target-speedup {answer:g}`" in told and rows[0]["method"] == "original"
    assert f"python -m scope_patch run --target-speedup {answer:g} -- {SCRIPT[0]} {SCRIPT[1]} --out out" in told
    assert (
        by_target[answer]["forwards"] < rows[0]["forwards"] and rows[0]["dit"] <= rows[0]["seconds"] < rows[0]["wall"]
    )
    assert len((tmp_path / "runs").read_text().splitlines()) == len(rows)
    page = (tmp_path / "scope_tune" / "index.html").read_text()
    assert page.count('class="timeline"') == len(by_target) and page.count('class="chosen"') == 1
    assert 'src="http' not in page and "url(" not in page and "<script" not in page
    assert f"| scope    | target {answer:<5g}" in (tmp_path / "scope_tune" / "table.md").read_text()

    assert main(words) == 0  # everything is there: nothing is run
    assert len((tmp_path / "runs").read_text().splitlines()) == len(rows) and capsys.readouterr().out == told


def test_without_out_what_appears_is_taken_and_left_where_it_is(tmp_path, capsys):
    (tmp_path / "old.pt").write_bytes(b"of before")
    script = tmp_path / "run.sh"
    script.write_text(f'exec "{SCRIPT[0]}" "{SCRIPT[1]}" --out here.pt --seed "$1"\n')
    words = ["bench", "--methods", "teacache:0.2", "steps:6", "--seeds", "2"]
    assert main([*words, "--", "bash", str(script), "{seed}"]) == 0
    told = capsys.readouterr().out
    assert "| teacache | 0.2   | 2 " in told
    assert "left out: reduced steps, 6 steps: the command has no {steps} for it to fill" in told
    assert (tmp_path / "old.pt").read_bytes() == b"of before" and (tmp_path / "here.pt").exists()
    assert {(row["method"], row["seed"]) for row in lines()} == {
        (method, seed) for method in ("original", "teacache", "reduced steps") for seed in (0, 1)
    }


def test_steps_and_prompts_and_pictures(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a disc\n\na {seed} ring\n")
    words = ["--steps", "12", "--prompts", "prompts.txt", "--", *SCRIPT, "--out", "{out}/", "--prompt", "{prompt}"]
    words += ["--steps", "{steps}", "--kind", "frames"]
    assert main(["bench", "--methods", "steps:6", *words]) == 0
    rows = lines()
    assert {row["prompt"] for row in rows} == {"a disc", "a {seed} ring"} and all(row["status"] == "ok" for row in rows)
    forwards = {row["method"]: row["forwards"] for row in rows}
    assert forwards["reduced steps"] < forwards["original"]
    assert all(0 < row["psnr"] < 100 and 0 < row["ssim"] < 1 for row in rows if row["method"] != "original")
    assert '"data:video/mp4;base64,' in (tmp_path / "scope_tune" / "index.html").read_text()


@pytest.mark.parametrize(
    ("words", "complaints"),
    [
        (["--fail", "always"], ["the original could not be made: the command exited with 3", "| the disk is full"]),
        (["--fail", "patched"], ["target 3 failed where the original did not", "exited with 3", "| the disk is full"]),
        (["--kind", "none"], ["wrote no video, picture or latents to {out}"]),
        (["--kind", "growing"], ["target 3 failed", "[4, 34, 4, 4]", "equal lengths"]),
    ],
)
def test_what_goes_wrong_is_told_with_the_last_lines(words, complaints, capsys):
    assert main(["tune", "--psnr", "40", "--", *SCRIPT, "--out", "{out}", *words]) == 2
    err = capsys.readouterr().err
    assert all(complaint in err for complaint in complaints), err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["tune"], "no command to run"),
        (["bench"], "python -m scope_patch bench [OPTIONS] -- COMMAND"),
        (["tune", "--", "no-such-program"], "command not found"),
        (["tune", "--", *SCRIPT, "{prompt}"], "give its lines by --prompts FILE"),
        (["tune", "--seeds", "2", "--", *SCRIPT], "the command has no {seed}"),
        (["tune", "--prompts", "empty", "--", *SCRIPT, "{prompt}"], "has no prompt in it"),
        (["tune", "--prompts", "gone", "--", *SCRIPT, "{prompt}"], "cannot be read"),
        (["tune", "--budget", "soon", "--", *SCRIPT], "is no time"),
        (["tune", "--predictor", "hold", "--max-skip", "x", "--", *SCRIPT], "not a whole number"),
        (["tune", "--", sys.executable, "-I", "x.py"], "isolated mode"),
        (["bench", "--methods", "scoop:3", "--", *SCRIPT], "did you mean scope?"),
        (["bench", "--", *SCRIPT, "{steps}"], "say by --steps N"),
        (["tune", "--steps", "50", "--", *SCRIPT], "the command has no {steps}"),
        (["tune", "--profile", "gone.json", "--", *SCRIPT], "gone.json"),
        (["tune", "--predictor", "tailor1", "--", *SCRIPT], "did you mean taylor1?"),
        (["tune", "--registry", "gone.py", "--", *SCRIPT], "gone.py cannot be used"),
        (["bench", "--methods", "teacache:bogus=1", "--", *SCRIPT], "bogus"),
        (["bench", "--methods", "scope:3,replay=perhaps", "--", *SCRIPT], "neither on nor off"),
        (["tune", "--folder", "/proc/none/t", "--", *SCRIPT], "--folder /proc/none/t cannot be written"),
        (["tune", "--folder", "x" * 300, "--", *SCRIPT], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_runs(words, complaint, tmp_path, capsys):
    (tmp_path / "empty").write_text("\n")
    assert main(words) == 2
    err = capsys.readouterr().err
    assert complaint in err and err.count("\n") == 1, err
    assert not list(tmp_path.glob("scope_tune/runs*"))


def test_a_metric_without_its_package_is_told_before_anything_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    assert main(["tune", "--", *SCRIPT]) == 2
    assert "this needs scikit-image" in capsys.readouterr().err and not list(tmp_path.glob("scope_tune/runs*"))


def test_device_memory_is_in_the_report(monkeypatch, tmp_path):
    for name, value in (("is_available", True), ("is_initialized", True), ("max_memory_allocated", 123)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    from scope_patch.report import sink

    assert sink.device_peak() == 123
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert sink.device_peak() == 0


def test_interrupted_it_leaves_whole_lines_and_goes_on(tmp_path):
    """By Ctrl-C, from there on by a scheduler, and from there on to the end."""
    methods = ["--methods", "scope:2", "scope:3", "scope:4"]
    words = [sys.executable, "-m", "scope_patch", "bench", *methods, "--", *SCRIPT, "--out", "{out}"]
    log, before = tmp_path / "scope_tune" / "runs.jsonl", []

    def under_way():
        return subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout

    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            words, env=clean_environ(), stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )  # fmt: skip
        wanted, end = len(before) + 1, time.monotonic() + 100
        while time.monotonic() < end and not (log.exists() and log.read_text().count("\n") >= wanted and under_way()):
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "the same command goes on from here" in err, err
        rows = lines()
        assert wanted <= len(rows) <= wanted + 1 and all(row["status"] == "ok" for row in rows)
        assert rows[: len(before)] == before
        assert under_way() == "", "the run under way ended, too"
        before = rows
    assert main(words[3:]) == 0
    assert lines()[: len(before)] == before and len(lines()) == 4


def test_a_budget_ends_the_search(tmp_path, capsys):
    assert main(["tune", "--budget", "0.001s", "--psnr", "40", "--", *SCRIPT, "--out", "{out}"]) == 1
    assert "before a target was tried" in capsys.readouterr().out and len(lines()) == 1


# From Python


def test_from_python_a_model_is_loaded_once(tmp_path):
    pipe = fake_pipeline(seed=3)

    def make():
        return pipe("a disc", num_frames=33, num_inference_steps=24, ar_step=2)

    found = scope_patch.tune(make, psnr=48, folder=tmp_path / "kept")
    assert found.target and found.settings == {"target_speedup": found.target} and found.speedup > 0
    assert found.page.is_file() and f"--target-speedup {found.target:g}" in str(found)
    chosen = next(row for row in found.rows if row["x"] == found.target)
    with scope_patch.patched(pipe, **found.settings):
        made = make()
    from scope_patch.compare import metrics

    assert metrics.latent_psnr(make(), made) == pytest.approx(chosen["psnr"]) and chosen["psnr"] >= 48
    again = scope_patch.tune(make, pipe, psnr=99.9, predictor="hold")
    assert again.target is None and again.page is None and "cannot be reached" in again.words
    with pytest.raises(scope_patch.NotApplied, match="say which one it runs by pipe="):
        scope_patch.tune(lambda: 3)
    fast = scope_patch.tune(make, seconds=1e6)
    assert fast.target is None and "nothing to do" in fast.words


def test_a_command_is_another_when_its_script_is(tmp_path):
    script = tmp_path / "a.py"
    script.write_text("1")
    before = Command([sys.executable, str(script)]).fingerprint
    assert Command([sys.executable, str(script)]).fingerprint == before
    script.write_text("2")
    assert Command([sys.executable, str(script)]).fingerprint != before
    (tmp_path / "out.pt").write_text("1")
    before = Command([sys.executable, "out.pt"]).fingerprint
    (tmp_path / "out.pt").write_text("2")
    assert Command([sys.executable, "out.pt"]).fingerprint == before, "what it writes is no other command"
