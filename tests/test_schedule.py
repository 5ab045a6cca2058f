"""The schedule (equations 8 and 9): against upstream's own masks and an independent slow reference."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline
from hypothesis import assume, given
from hypothesis import strategies as st

from scope_patch.method import schedule


@st.composite
def options(draw):
    """(latent frames, steps, ar_step, block, pre-ready frames) that upstream accepts."""
    block = draw(st.integers(1, 5))
    blocks = draw(st.integers(1, 6))
    steps = draw(st.integers(2, 14))
    ar_step = draw(st.integers(0, steps))
    ready = draw(st.integers(0, blocks - 1))
    window = draw(st.integers(1, blocks))
    if window < blocks:
        ar_step = max(ar_step, math.ceil(steps / window))
    return blocks * block, steps, ar_step, block, ready * block, window * block


def upstream(slots, steps, ar_step, block, ready, window):
    template = torch.linspace(990, 10, steps).long()
    make = SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix
    return make(None, slots, template, window, ar_step, ready, block)


def slow_reference(index, steps, ready, window):
    """Equations 8 and 9 read aloud, slot by slot: no shared code, no tensors."""
    rows = index.tolist()
    before = [steps + 1 if j < ready else 0 for j in range(len(rows[0]))]
    end, out = 0, []
    ever = [any(_moves(rows, i, j, steps, ready) for i in range(len(rows))) for j in range(len(rows[0]))]
    for j, updates in enumerate(ever):
        if not updates:
            end = max(end, j + 1)
    for row in rows:
        active = [j for j in range(len(row)) if row[j] != before[j] and row[j] != steps + 1]
        if active:
            end = max(end, active[-1] + 1)
        out.append((active, (max(end - window, 0), end)))
        before = row
    return out


def _moves(rows, i, j, steps, ready):
    before = rows[i - 1][j] if i else (steps + 1 if j < ready else 0)
    return rows[i][j] != before and rows[i][j] != steps + 1


def built(mask, matrix, intervals, selective=True):
    return schedule.Schedule.of(schedule.Table(matrix, matrix / 1000, mask, intervals), selective=selective)


@given(options())
def test_mask_and_intervals_equal_the_slow_reference(drawn):
    slots, steps, ar_step, block, ready, window = drawn
    matrix, index, mask, intervals = upstream(*drawn)
    assert torch.equal(schedule.update_mask(index, steps, ready), mask)
    ours = built(mask, matrix, intervals)
    reference = slow_reference(index, steps, ready, window)
    if schedule.misfit(mask, intervals, intervals):  # more frames ready than its window: upstream itself loses slots
        assert ours.intervals == intervals and ours.note
        return
    assert ours.selective, ours.note
    assert ours.intervals == [interval for _, interval in reference]
    assert [row.nonzero().flatten().tolist() for row in mask] == [active for active, _ in reference]


@given(options())
def test_interval_laws(drawn):
    slots, steps, ar_step, block, ready, window = drawn
    matrix, _, mask, intervals = upstream(*drawn)
    assume(not schedule.misfit(mask, intervals, intervals))
    ours = built(mask, matrix, intervals)
    starts, ends = zip(*ours.intervals, strict=True)
    assert list(starts) == sorted(starts) and list(ends) == sorted(ends)
    for (start, end), (host_start, host_end), row in zip(ours.intervals, intervals, mask, strict=True):
        assert host_start <= start <= end <= host_end and end - start <= window
        assert not row[:start].any() and not row[end:].any()
        assert end % block == 0, "block-causal masks need whole blocks"
    assert ours.grew(0) and sum(ours.grew(i) for i in range(len(ours))) <= slots


@given(options(), st.integers(1, 2))
def test_end_frames_stay_in_the_interval(drawn, conditioning):
    """Callers mark end frames as clean after the schedule was made; they are context from the first iteration on."""
    slots, steps, ar_step, block, ready, window = drawn
    assume(window == slots and slots - ready > conditioning)
    matrix, _, mask, intervals = upstream(*drawn)
    matrix[:, -conditioning:] = 0
    mask[:, -conditioning:] = False
    ours = built(mask, matrix, intervals)
    assert all(interval == (0, slots) for interval in ours.intervals)


def test_intervals_that_would_lose_an_active_slot_are_refused():
    mask = torch.tensor([[True, False, True], [False, True, False]])
    matrix = torch.zeros(2, 3)
    ours = built(mask, matrix, [(0, 2), (1, 3)])
    assert not ours.selective and ours.intervals == [(0, 2), (1, 3)] and "not inside the host's" in ours.note


def test_not_selective_keeps_the_hosts_intervals_and_still_knows_growth():
    matrix, _, mask, intervals = upstream(25, 50, 5, 5, 0, 25)
    ours = built(mask, matrix, intervals, selective=False)
    assert ours.intervals == intervals == [(0, 25)] * 70
    assert [i for i in range(70) if ours.grew(i)] == [0, 5, 10, 15, 20]


@pytest.mark.parametrize(("segments", "iterations"), [([0, 5, 5], [70, 65, 65])])
def test_numbers_of_the_papers_setting(segments, iterations):
    """Design §5: 257 frames, 50 steps, block 5, ar_step 5: 200 iterations, 65 / 11 / 24 %, prefix 89 %."""
    active = waiting = finished = computed = total = 0
    found = []
    for ready in segments:
        matrix, index, mask, intervals = upstream(25, 50, 5, 5, ready, 25)
        ours = built(mask, matrix, intervals)
        found.append(len(ours))
        active += int(mask.sum())
        waiting += int((index == 0).sum())
        finished += int((~mask & (index != 0)).sum())
        computed += sum(end - start for start, end in ours.intervals)
        total += mask.numel()
    assert found == iterations
    assert [round(100 * part / total) for part in (active, waiting, finished, computed)] == [65, 11, 24, 89]


def window(**changes):
    """Three chunks in a window of two; the host's timesteps run from 0 (noise) to 1 (clean)."""
    timesteps = torch.tensor([[0.0, 0, 0], [0.5, 0.0, 0], [0.9, 0.5, 0], [0, 0.9, 0.0]]).double()
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 1]]).bool()
    given = {"noise_levels": 1 - timesteps, "mask": mask, "intervals": [(0, 1), (0, 2), (0, 2), (1, 3)]}
    given |= {"clean_prefixes": [0, 0, 0, 1], "contexts": ["a", "a", "a", "b"], "frames": 6, "moving": True}
    return schedule.Table(timesteps, **{**given, **changes})


def test_a_moving_window_is_forwarded_as_the_host_says():
    table = window()
    table.check()
    made = schedule.Schedule.of(table, selective=True)
    assert made.intervals == table.intervals and not made.selective and made.ends == [1, 2, 2, 3]
    assert made.baseline == [(0, 1), (0, 2), (0, 2), (0, 3)] and made.clean_prefix(3) == 1 and made.frames == 6
    assert [made.grew(i) for i in range(4)] == [True, True, False, True]
    assert (
        made.entered(3, (2, 3))
        and not made.entered(3, (1, 2))
        and made.context_changed(3, 2)
        and not made.context_changed(2, 1)
    )


def test_the_direction_of_timesteps_is_nobodys_business():
    matrix, _, mask, intervals = upstream(25, 50, 5, 5, 0, 25)
    levels = matrix / 1000
    for timesteps in (matrix, 1 - levels):
        table = schedule.Table(timesteps, levels, mask, intervals)
        table.check()
        assert schedule.Schedule.of(table, selective=True).intervals[0] == (0, 5)


RISING = torch.tensor([[0.9, 0.9, 0.9], [0.5, 0.9, 1], [0.95, 0.8, 1], [0, 0.5, 1]]).double()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"noise_levels": torch.zeros(4, 2)}, r"levels is \[4, 2\], expected \[iterations, slots\]"),
        ({"intervals": [(0, 1)] * 3}, "3 intervals for 4 iterations"),
        ({"contexts": ["a"]}, "1 contexts for 4 iterations"),
        ({"intervals": [(0, 1), (0, 2), (0, 2), (0, 3)]}, r"step 3: chunks \[1, 2\] are updated of \[0, 3\)"),
        ({"clean_prefixes": [1, 0, 0, 0]}, "step 0: .* 1 clean before it"),
        ({"noise_levels": window().noise_levels.flip(1)}, "step 2: chunks do not come cleanest first"),
        ({"noise_levels": RISING, "moving": False}, "rise, at iteration 2 that of latent frame 0"),
        ({"noise_levels": 1000 * window().noise_levels}, "the noise levels go from 100 to 1000"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        window(**changes).check()


def test_a_window_that_moves_back_is_refused():
    order = [3, 2, 1, 0]
    given = {name: getattr(window(), name)[order] for name in ("noise_levels", "mask")}
    intervals = [window().intervals[i] for i in order]
    with pytest.raises(ValueError, match=r"step 1: the window moves back from \[1, 3\)"):
        window(**given, intervals=intervals, clean_prefixes=()).check()
