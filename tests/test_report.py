"""What the user is told: the report's contract (design §6) and the closing summary."""

from __future__ import annotations

import json
import os

import pytest
from hosts import ALWAYS_PREDICT, fake_pipeline

import scope_patch
from scope_patch.report import summary

REASONS = {"threshold", "horizon", "growth", "forced", "history"}


def told(pipe=None, generations=1, **settings):
    """The record of some generations and its summary as one text."""
    pipe = pipe or fake_pipeline()
    with scope_patch.patched(pipe, **settings) as run:
        for _ in range(generations):
            pipe("a disc")
    return run, "\n".join(summary.lines(run))


def test_the_report_has_what_the_contract_names(tmp_path):
    path = tmp_path / "run.json"
    told(**ALWAYS_PREDICT, report=str(path))
    report = json.loads(path.read_text())
    assert report["schema"] == 2 and report["status"] == "applied" and report["reasons"] == []
    assert {"host", "settings", "signal", "generations"} <= report.keys()
    (generation,) = report["generations"]
    assert generation["forwards"].keys() == {"baseline", "run", "skipped"}
    assert generation["seconds"].keys() == {"total", "dit", "overhead"}
    assert generation["seconds"]["total"] >= generation["seconds"]["dit"] > 0 and generation["seconds"]["overhead"] > 0
    assert {"history_bytes_peak", "guards", "segments"} <= generation.keys()
    (segment,) = generation["segments"]
    assert set(segment["modes"]) <= set("CPR") and set(segment["reasons"]) <= REASONS
    assert {"iterations", "intervals", "slots_baseline", "slots_computed"} <= segment.keys()


def test_summary_of_a_success_counts_everything():
    run, text = told(**ALWAYS_PREDICT, generations=2)
    ran = sum(generation.forwards_run for generation in run.generations)
    assert f"DiT forwards 96 -> {ran}" in text and "2 generations" in text
    assert "predicted" in text and "s overhead" in text and "MB of velocities kept" in text


@pytest.mark.parametrize(
    ("settings", "because"),
    [
        ({"policy": "never"}, "the policy is `never`"),
        ({"max_skip": 0}, "--max-skip is 0"),
        ({"cache_threshold": 0, "predict_threshold": 0}, "every step had a reason to recompute: threshold"),
    ],
)
def test_nothing_skipped_is_said_with_the_reason(settings, because):
    assert f"nothing was skipped: all 48 DiT forwards ran, because {because}" in told(**settings)[1]


def test_nothing_patched_is_said_with_the_reason():
    pipe = fake_pipeline()
    pipe.transformer.enable_teacache = True
    text = told(pipe)[1]
    assert text.startswith("scope_patch: nothing was patched in effect (skyreels-v2): upstream's own TeaCache")
    with scope_patch.patched(fake_pipeline()) as run:
        pass
    assert "no generation was started" in summary.lines(run)[0]


def test_a_failed_generation_is_mentioned():
    pipe = fake_pipeline()
    pipe.transformer.fail_at = 9
    with scope_patch.patched(pipe, **ALWAYS_PREDICT) as run, pytest.raises(RuntimeError):
        pipe("a disc")
    assert "1 not finished: RuntimeError: CUDA out of memory (a fake one)" in "\n".join(summary.lines(run))


def test_full_attention_is_remarked():
    assert "the others see a shorter clip (--no-selective keeps them)" in told(selective=True)[1]
    assert "shorter clip" not in told()[1]


def test_every_rank_tells_of_its_own_generations(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        told(report=str(path))
    made = json.loads(path.read_text())["generations"]
    assert [(each["rank"], each["ranks"], each["pid"]) for each in made] == [
        (1, [1], os.getpid()),
        (0, [0], os.getpid()),
    ]
