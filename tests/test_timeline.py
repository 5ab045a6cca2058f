"""What a report says of every latent frame at every iteration, and what is no report."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product

import pytest
from hosts import ALWAYS_PREDICT, fake_magi, fake_pipeline
from hypothesis import given
from hypothesis import strategies as st
from reports import CHUNK_COLUMNS, CHUNKS, COLUMNS, SEGMENT, report, several

import scope_patch
from scope_patch.errors import UsageError
from scope_patch.report.read import parse, read
from scope_patch.report.record import active_ranges
from scope_patch.report.timeline import timeline


def drawn(values):
    """The timelines of a report's first generation."""
    return [timeline(segment) for segment in parse(values).run.generations[0].segments]


def without(segment, *keys):
    return {key: value for key, value in segment.items() if key not in keys}


def test_every_cell_of_a_segment():
    (made,) = drawn(report())
    assert made.columns == COLUMNS and made.stairs == ((0, 2), (0, 2), (0, 4), (0, 4), (0, 4))


def test_every_cell_where_chunks_are_decided_one_by_one():
    (made,) = drawn(report(CHUNKS))
    assert made.columns == CHUNK_COLUMNS
    assert made.stairs == ((0, 2), (0, 4), (0, 4)) and made.forwarded[1] == (0, 2)


def test_a_generation_that_ended_early():
    cut = {"modes": "RP", "reasons": ["growth", "threshold"], "intervals": [[0, 2], [0, 2]]}
    (made,) = drawn(report({**SEGMENT, **cut}))
    assert made.columns == ("RR..", "PP..", "    ", "    ", "    ") and made.ran == 2


def test_a_report_of_the_first_version_is_drawn_by_its_intervals():
    (made,) = drawn(report(without(SEGMENT, "frames", "active")))
    assert made.columns == ("RR..", "PP..", "RRRR", "CCCC", "RRRR")


@st.composite
def segments(draw):
    """A segment whose active latent frames lie inside its intervals."""
    frames, modes = draw(st.integers(1, 12)), draw(st.text("CPR", max_size=12))
    more = draw(st.integers(0, 3))

    def pair(low, high):
        return sorted(draw(st.lists(st.integers(low, high), min_size=2, max_size=2)))

    intervals = [pair(0, frames) for _ in modes]
    active = [pair(*bounds) for bounds in intervals] + [[0, frames]] * more
    return {
        "iterations": len(modes) + more,
        "modes": modes,
        "reasons": ["threshold"] * len(modes),
        "intervals": intervals,
        "frames": frames,
        "active": active,
    }


@given(segments())
def test_counts_in_the_grid_are_those_of_the_report(segment):
    (made,) = drawn(report(segment))
    assert {len(column) for column in made.columns} <= {segment["frames"]} and len(made.columns) == made.iterations
    for column, mode, (start, end) in zip(made.columns, segment["modes"], segment["active"], strict=False):
        count = Counter(column)
        assert {state: count[state] for state in "CPR"} == {**dict.fromkeys("CPR", 0), mode: end - start}
    entered = [i for i, (start, end) in enumerate(segment["active"][: made.ran]) if end > start]
    assert [i for i, column in enumerate(made.columns) if set(column) & set("CPR")] == entered


@given(segments())
def test_areas_cover_every_cell_once(segment):
    (made,) = drawn(report(segment))
    grid = {(i, frame): [] for i in range(made.iterations) for frame in range(made.frames)}
    for state, boxes in made.boxes.items():
        for left, right, low, high in boxes:
            for cell in product(range(left, right), range(low, high)):
                grid[cell].append(state)
    assert all(states == [made.columns[i][frame]] for (i, frame), states in grid.items())


@given(
    st.integers(1, 8).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n))), st.integers(1, 6)
)
def test_ranges_say_what_the_mask_says(mask, frames):
    for row, bounds in zip(mask, active_ranges(mask, frames), strict=True):
        inside = {frame for k in range(0, len(bounds), 2) for frame in range(bounds[k], bounds[k + 1])}
        assert inside == {frame for frame in range(len(row) * frames) if row[frame // frames]}


def test_a_run_records_what_is_drawn():
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, **ALWAYS_PREDICT, selective=True) as run:
        pipe("a disc")
    (made,) = drawn(run.report)
    assert made.frames == 25 and made.columns[0] == "R" * 5 + "." * 20
    assert "R" in made.columns[-5] or "P" in made.columns[-5]
    assert [next(iter(set(column) & set("CPR"))) for column in made.columns] == list(made.modes)


def test_chunks_are_recorded_one_by_one_and_clean_chunks_apart():
    tiny = fake_magi()
    model = tiny.make_model()
    with scope_patch.patched(model, cache_threshold=0.0, predict_threshold=0.5) as run:
        tiny.generate(model)
    (segment,) = run.report["generations"][0]["segments"]
    (made,) = drawn(run.report)
    assert segment["chunk"] == 6 and made.frames % 6 == 0
    assert any(len(set(letters)) > 1 for letters in segment["slots"])
    forced = [i for i, letters in enumerate(segment["slots"]) if "F" in letters]
    assert forced and all(column.count("F") == (6 if i in forced else 0) for i, column in enumerate(made.columns))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "but this is a list"),
        ({}, "'schema' is 'none', and this version reads 1 to 2"),
        ({**report(), "schema": 3}, "'schema' is 3"),
        (without(report(), "generations"), "the report has no 'generations' (it has 'schema', 'host'"),
        ({**report(), "generations": [7]}, "'generations'[0] is a whole number, expected an object"),
        (several({}), "generation 1 has no 'segments'"),
        (report(without(SEGMENT, "modes")), "segment 1 of generation 1 has no 'modes'"),
        (report(SEGMENT, {**SEGMENT, "modes": "RPXCR"}), "segment 2 of generation 1: 'modes' has 'X'"),
        (report({**SEGMENT, "iterations": 4}), "5 letters for 4 iterations"),
        (report({**SEGMENT, "iterations": True}), "'iterations' is yes or no, expected a whole number"),
        (report({**SEGMENT, "reasons": []}), "'reasons' has 0 entries, but 'modes' 5"),
        (report({**SEGMENT, "intervals": [[0, 9]] * 5}), "'intervals'[0] is [0, 9], expected ranges inside [0, 4]"),
        (report({**SEGMENT, "intervals": [[]] * 5}), "an interval is no [start, end]"),
        (report({**SEGMENT, "active": [[0, 2]]}), "'active' has 1 entries, but 'iterations' 5"),
        (report({**SEGMENT, "frames": 10**9}), "more than can be drawn"),
        (report({**CHUNKS, "slots": ["R", "RPRRR", "F"]}), "'slots'[1] is 'RPRRR'"),
        (report(without(CHUNKS, "chunk")), "'chunk'"),
        (report(guards={"stability": "x"}), "'stability' is a text, expected a whole number"),
        (report(planned=[{"work": 1}]), "a plan has no 'baseline'"),
    ],
)
def test_what_is_no_report_is_said(values, words):
    with pytest.raises(UsageError) as caught:
        parse(values)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"# A page", "it begins with '# A page'"),
        (b"\xff\xfe", "not even text"),
        (b"[" * 10**5, "JSON"),
    ],
)
def test_a_file_that_is_no_json(tmp_path, content, words):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read(str(path))


def test_the_report_of_a_long_video_is_small():
    modes = "RPPPPP" * 11
    segment = {**SEGMENT, "iterations": 66, "modes": modes, "reasons": ["threshold"] * 66}
    segment |= {"frames": 25, "intervals": [[0, 25]] * 66, "active": [[20, 25]] * 66}
    assert len(json.dumps(report(*[segment] * 9), indent=1)) < 200_000  # 737 frames
