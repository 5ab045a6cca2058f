"""A limit of the memory of histories: what moves, what is dropped, and that nothing else changes."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from hosts import ALWAYS_PREDICT, fake_magi, generate, tiny_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st

import scope_patch
from scope_patch.cli import main
from scope_patch.errors import UsageError
from scope_patch.method import memory as memory_module
from scope_patch.method.forecast import LARGEST_CHANGE, Forecast, Part, Tally
from scope_patch.method.history import BranchHistory
from scope_patch.method.memory import Cpu, Memory, elsewhere
from scope_patch.method.predictors import create
from scope_patch.method.schedule import Schedule, Table
from scope_patch.values import Limit

POINT = 4 * 15 * 4 * 4 * 4
"""Bytes of one velocity of tests/hosts.py: 4 channels, 15 latent frames, 4 x 4, float32."""


class Shelf:
    """Another place on a machine that has none; counts. What it holds shares no memory with what it was given."""

    def __init__(self):
        self.puts = self.backs = 0

    def put(self, velocity):
        self.puts += 1
        return velocity.clone()

    def back(self, kept, device):
        self.backs += 1
        return kept.clone().to(device)


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("text", "size", "drop"),
    [
        ("500MB", 500 * 10**6, False),
        ("1.5GB", 1500 * 10**6, False),
        ("1.5 gib:drop", 3 * 2**29, True),
        ("12k", None, None),
        ("4096", 4096, False),
        ("0", 0, False),
        ("0B:drop", 0, True),
        ("2KiB", 2048, False),
    ],
)
def test_sizes(text, size, drop):
    if size is None:
        with pytest.raises(UsageError, match="no size"):
            Limit.parse(text)
    else:
        assert Limit.parse(text) == Limit(size, drop)


@pytest.mark.parametrize("text", ["", "much", "-1", "1e9", "5XB", "500MB:move", "1.GB", "MB"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"500MB:drop|is empty"):
        scope_patch.settings.Settings.resolve({"history_limit": text}, {})


HISTORIES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=12)
"""(which history records, slots of the velocity)"""


def recorded(events, memory, keeps=3):
    """Histories after these recordings; yields after each of them."""
    histories = {}
    for k, (key, slots) in enumerate(events):
        history = histories.setdefault(key, BranchHistory(keeps, memory))
        level = 1 - k / 100
        generator = torch.Generator().manual_seed(k)
        history.record(
            (0, slots), torch.full((slots,), level).double(), torch.randn(1, 1, slots, 2, 2, generator=generator)
        )
        yield histories


@settings(max_examples=40)
@given(HISTORIES, st.integers(0, 40), st.integers(1, 3))
def test_with_another_place_the_device_never_holds_more_and_nothing_changes(events, points, keeps):
    shelf = Shelf()
    memory = Memory(Limit(16 * points), lambda device: shelf)
    for limited, plain in zip(recorded(events, memory, keeps), recorded(events, Memory(), keeps), strict=True):
        assert memory.bytes == sum(history.anchors.bytes for history in limited.values()) <= 16 * points
        for key, history in limited.items():
            assert len(history.anchors) == len(plain[key].anchors)
            interval = history.anchors[0].interval
            weights = torch.randn(len(history.anchors), interval[1])
            assert torch.equal(history.combine(interval, weights), plain[key].combine(interval, weights))
            assert torch.equal(history.hold(interval), plain[key].hold(interval))
            ours, theirs = history.points(interval), plain[key].points(interval)
            assert torch.equal(ours.levels.nan_to_num(7), theirs.levels.nan_to_num(7))
            assert torch.equal(ours.drift, theirs.drift) and torch.equal(ours.curvature, theirs.curvature)
    assert shelf.puts == memory.moved and memory.dropped == memory.over == 0


@settings(max_examples=40)
@given(HISTORIES, st.integers(0, 40), st.integers(1, 3))
def test_what_is_dropped_is_the_oldest_and_no_more_than_must_be(events, points, keeps):
    memory, limit = Memory(Limit(16 * points, drop=True)), 16 * points
    for (key, slots), limited, plain in zip(
        events, recorded(events, memory, keeps), recorded(events, Memory(), keeps), strict=True
    ):
        newest = sum(history.anchors[0].bytes for history in limited.values())
        assert memory.bytes <= max(limit, newest)
        assert all(history.anchors for history in limited.values()), "the newest is kept whatever the limit"
        assert limited[key].anchors[0].interval == (0, slots)
        for other, history in limited.items():
            ours, theirs = ([a.kept for a in h.anchors] for h in (history, plain[other]))
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=False)), "the newest of the plain ones"
        assert memory.over >= newest or newest <= limit
    if limit >= 16 * 6 * 4 * 3:
        assert memory.dropped == 0


def test_the_oldest_move_first_and_only_once():
    shelf = Shelf()
    memory = Memory(Limit(2 * 16), lambda device: shelf)
    *_, histories = recorded([(0, 1), (1, 1), (0, 1), (1, 1), (0, 1)], memory)
    assert [anchor.bytes for anchor in histories[0].anchors] == [16, 0, 0]
    assert [anchor.bytes for anchor in histories[1].anchors] == [16, 0]
    assert shelf.puts == memory.moved == 3


def test_guidance_branches_drop_alike():
    memory = Memory(Limit(5 * 16, drop=True))
    *_, histories = recorded([(0, 1), (1, 1)] * 5, memory)
    assert [len(history.anchors) for history in histories.values()] == [2, 2]


def test_the_cpu_is_the_other_place_of_devices_that_are_not_it():
    assert elsewhere(torch.device("cpu")) is None
    place = elsewhere(torch.device("cuda", 0))
    assert isinstance(place, Cpu)
    velocity = torch.randn(2, 3)
    kept = place.put(velocity)
    assert kept.data_ptr() != velocity.data_ptr() and torch.equal(place.back(kept, torch.device("cpu")), velocity)


def test_points_that_were_dropped_under_a_forecast_are_held():
    """Its weights count on them: without them they would no longer sum to 1."""
    levels, mask = row(0.9, 0.8, 0.7, 0.6)[:, None].repeat(1, 2), torch.ones(4, 2, dtype=torch.bool)
    schedule = Schedule.of(Table(1000 * levels, levels, mask, [(0, 2)] * 4))
    history = BranchHistory(3)
    for k in range(3):
        history.record((0, 2), levels[k], torch.full((1, 1, 2, 1, 1), 1.0 + k))
    part = Part(history, (0, 2))
    forecast = Forecast([part], history.points((0, 2)), schedule, 3, create("taylor2"), LARGEST_CHANGE, Tally())
    assert forecast.predict(part).flatten().tolist() == pytest.approx([4.0, 4.0])
    del history.anchors[2:]
    assert forecast.predict(part).flatten().tolist() == [3.0, 3.0]


def made(**settings):
    pipe = tiny_pipeline()
    # With keys kept, velocities are of fewer latent frames as the video goes on: not all points are of one size.
    with scope_patch.patched(pipe, target_speedup=3, strict=True, frozen_keys="off", **settings) as run:
        video = generate(pipe)
    (generation,) = run.report["generations"]
    return video, generation


@functools.cache
def unlimited(level):
    return made(level=level)


def decided(generation):
    return [(s["modes"], s["reasons"], s["intervals"]) for s in generation["segments"]], generation["forwards"]


@pytest.fixture
def shelf(monkeypatch):
    shelf = Shelf()
    monkeypatch.setattr(memory_module, "elsewhere", lambda device: shelf)
    return shelf


@pytest.mark.parametrize(("level", "points"), [("velocity", 0), ("velocity", 3), ("velocity", 6), ("residual", 3)])
def test_a_video_whose_history_is_moved_is_bit_identical(shelf, level, points):
    plain, before = unlimited(level)
    assert shelf.puts == 0 and not any("history-limit" in remark for remark in before["remarks"])
    one = before["history_bytes_peak"] // 6
    video, generation = made(level=level, history_limit=points * one)
    assert torch.equal(video, plain) and decided(generation) == decided(before)
    assert generation["history_bytes_peak"] <= points * one
    assert (shelf.puts > 0) == (points < 6) == any("moved off the device" in said for said in generation["remarks"])
    assert shelf.backs >= shelf.puts // 2


@pytest.mark.parametrize(("points", "peak", "over"), [(6, 6, False), (4, 4, False), (2, 2, False), (1, 2, True)])
def test_a_video_whose_history_is_dropped_has_the_same_decisions(points, peak, over):
    plain, before = unlimited("velocity")
    video, generation = made(history_limit=f"{points * POINT}B")  # the model is on the CPU: there is no other place
    assert decided(generation) == decided(before) and generation["guards"].keys() <= {"stability"}
    assert generation["history_bytes_peak"] == peak * POINT
    assert torch.equal(video, plain) == (points == 6) and video.isfinite().all()
    assert any("dropped" in said for said in generation["remarks"]) == (points < 6)
    assert any("above the limit" in said for said in generation["remarks"]) == over


def test_one_point_is_held():
    """With one point a prediction is the last velocity, as `--predictor hold` makes it."""
    held, _ = made(predictor="hold", selective=False)
    video, _ = made(history_limit=f"{2 * POINT}:drop", selective=False)
    assert torch.equal(video, held)


def test_drop_is_dropped_also_where_there_is_another_place(shelf):
    _, generation = made(history_limit=f"{2 * POINT}:drop")
    assert shelf.puts == 0 and any("dropped" in said for said in generation["remarks"])


@pytest.mark.parametrize("drop", ["", ":drop"])
def test_chunks_of_a_moving_window(shelf, drop):
    tiny = fake_magi()
    videos, generations = [], []
    for more in ({}, {"history_limit": f"4000{drop}"}):
        model = tiny.make_model()
        with scope_patch.patched(model, **ALWAYS_PREDICT, strict=True, **more) as run:
            videos.append(tiny.generate(model))
        generations += run.report["generations"]
    assert decided(generations[0]) == decided(generations[1])
    assert generations[0]["history_bytes_peak"] > 4000
    if not drop:
        assert torch.equal(*videos) and shelf.puts > 0 and generations[1]["history_bytes_peak"] <= 4000
    else:
        assert shelf.puts == 0 and any("above the limit" in said for said in generations[1]["remarks"])


@pytest.mark.parametrize("host", ["skyreels-v2", "magi-1"])
@pytest.mark.parametrize("limit", ["10MB", "10MB:drop", "9GB"])
def test_a_plan_respects_it(host, limit, capsys, tmp_path):
    from test_plan_command import ENGINE, MODEL, RUNTIME

    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_config": MODEL, "runtime_config": RUNTIME, "engine_config": ENGINE}))
    words = [host, "--policy=never", *([f"--config={path}"] if host == "magi-1" else [])]

    def told(*more):
        assert main(["plan", *words, *more]) == 0
        return capsys.readouterr().out

    plain, limited = (json.loads(told(*more, "--json")) for more in ([], [f"--history-limit={limit}"]))
    whole, parsed = plain["history_bytes"], Limit.parse(limit)
    expected = min(whole, max(parsed.size, whole // 3) if parsed.drop else parsed.size)
    assert limited["history_bytes"] == expected and limited["plan"] == plain["plan"]
    assert limited["history_bytes_elsewhere"] == (0 if parsed.drop else whole - expected)
    assert f"extra memory: {expected / 1e6:.1f} MB of velocities" in told(f"--history-limit={limit}")
