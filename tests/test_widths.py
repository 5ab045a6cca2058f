"""Few widths: against brute force, over several segments, and as part of a schedule."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_schedule import options, upstream

from scope_patch.method import schedule
from scope_patch.method.schedule import Widths, fewest

COUNTS = st.dictionaries(st.integers(1, 40), st.integers(1, 30), min_size=1, max_size=8)


def additional(counts, targets):
    return sum(times * (min(t for t in targets if t >= width) - width) for width, times in counts.items())


@given(COUNTS, st.integers(1, 9))
def test_no_other_choice_of_so_many_widths_costs_less(counts, most):
    found = fewest(counts, most)
    others = [
        [*chosen, max(counts)]
        for size in range(min(most, len(counts)))
        for chosen in combinations(sorted(counts)[:-1], size)
    ]
    assert found == sorted(set(found)) and set(found) <= set(counts) and 1 <= len(found) <= most
    assert additional(counts, found) == min(additional(counts, targets) for targets in others)


@given(st.lists(COUNTS, min_size=1, max_size=4), st.one_of(st.none(), st.integers(1, 5)))
def test_laws_of_several_segments(segments, most):
    widths = Widths(most)
    for counts in segments:
        before = set(widths.known)
        rounded = widths.of_segment(counts)
        assert rounded.keys() == counts.keys() and max(rounded.values()) == max(counts)
        assert all(width <= to for width, to in rounded.items())
        assert rounded == {width: width for width in counts} if most is None else len(set(rounded.values())) <= most
        if len(before) < (most or 0) and before and max(counts) <= max(before):
            assert set(rounded.values()) <= before | {max(counts)}, "nothing is compiled anew that need not be"


@given(options(), st.integers(1, 5))
def test_intervals_of_few_widths(drawn, most):
    """The laws of intervals hold as without: active slots inside, never outside the host's, monotone, whole blocks."""
    block, window = drawn[3], drawn[5]
    matrix, _, mask, host = upstream(*drawn)
    assume(not schedule.misfit(mask, host, host))
    plain, few = (
        schedule.Schedule.of(schedule.Table(matrix, matrix / 1000, mask, host), selective=True, widths=widths)
        for widths in (None, Widths(most))
    )
    assert few.selective and few.note == "" and few.ends == plain.ends
    assert schedule.misfit(mask, few.intervals, host) == ""
    starts, ends = zip(*few.intervals, strict=True)
    assert list(starts) == sorted(starts) and list(ends) == sorted(ends)
    assert len({end - start for start, end in few.intervals}) <= most
    for (start, end), (own_start, own_end) in zip(few.intervals, plain.intervals, strict=True):
        assert start == own_start and end >= own_end and end % block == 0 and end - start <= window


def test_as_many_as_there_are_changes_nothing_and_one_is_what_the_host_forwards():
    matrix, _, mask, host = upstream(25, 50, 5, 5, 0, 25)

    def built(most):
        return schedule.Schedule.of(
            schedule.Table(matrix, matrix / 1000, mask, host), selective=True, widths=Widths(most)
        ).intervals

    assert built(5) == built(None) != host and built(1) == host
    assert sorted({end for _, end in built(2)}) == [10, 25]  # 25 + 50 + 25 latent frames more


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_segment_after_the_first_takes_its_widths(most):
    widths = Widths(most)
    first = widths.of_segment({5: 5, 10: 5, 15: 5, 20: 5, 25: 50})
    assert set(widths.of_segment({10: 5, 15: 5, 20: 5, 25: 50}).values()) <= set(first.values())
