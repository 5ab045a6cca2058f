"""Which skipped iterations are verified, how skipping is cut back, and what the bound expects: without any host."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_placement import magi, miss, skyreels

from scope_patch.method.decision import Decision, Mode, StepDecision
from scope_patch.method.profile import Profile, assumed
from scope_patch.method.verifying import Expectation, State, ahead, longest, step, tightened

INTERVAL = (0, 4)
SKIPPED, NARROWED, RUN = (
    StepDecision({INTERVAL: Decision(mode, "plan")}, (0, end), mode, "plan")
    for mode, end in ((Mode.PREDICT, 0), (Mode.RECOMPUTE, 2), (Mode.RECOMPUTE, 4))
)
PLANS = st.lists(st.sampled_from([SKIPPED, SKIPPED, SKIPPED, NARROWED, RUN]), min_size=1, max_size=60)


def carry_out(plan, every, bad=()):
    """Verdicts as a session carries them out, where the verified iterations `bad` err beyond the bound; and caps."""
    most, state, made, caps = longest(ahead(State(), plan, every, [INTERVAL] * len(plan))[1]), State(), [], []
    for i, verdict in enumerate(plan):
        caps.append(state.most)
        state, now = step(state, verdict, every, INTERVAL)
        made.append(now)
        if now.instead is not None and i in bad:
            state = tightened(state, most)
    return made, caps, state


def skipped(verdict):
    return verdict.forwarded[0] == verdict.forwarded[1]


@given(plan=PLANS, every=st.integers(1, 9), bad=st.sets(st.integers(0, 59)))
def test_never_more_is_skipped_than_was_planned_or_is_allowed(plan, every, bad):
    made, caps, _ = carry_out(plan, every, bad)
    row = seen = 0
    for before, now, cap in zip(plan, made, caps, strict=True):
        if not skipped(before):
            assert now is before, "what was planned to run runs as it was planned"
            row = 0
            continue
        counted = skipped(now) or now.instead is not None
        seen, row = seen + counted, row + 1 if counted else 0
        assert cap is None or row <= cap
        assert (now.instead is before) == (counted and seen % every == 0), "the N-th, 2N-th, ..."
        if skipped(now):
            assert now is before
        else:
            row = 0
            assert (now.forwarded, now.mode, now.reason) == (INTERVAL, Mode.RECOMPUTE, "verify")
            assert [now.mode_of(slot) for slot in range(*INTERVAL)] == [Mode.RECOMPUTE] * 4
    assert carry_out(plan, every, bad)[:2] == (made, caps), "deterministic"


@given(plan=PLANS, every=st.integers(1, 9), bad=st.sets(st.integers(0, 59)))
def test_every_violation_at_least_halves_what_is_allowed_down_to_nothing(plan, every, bad):
    made, caps, state = carry_out(plan, every, bad)
    allowed, changes = longest(ahead(State(), plan, every, [INTERVAL] * len(plan))[1]), 0
    for cap, after in itertools.pairwise([*caps, state.most]):
        if after != cap:
            assert after == (allowed if cap is None else cap) // 2
            allowed, changes = after, changes + 1
    assert changes == sum(now.instead is not None and i in bad for i, now in enumerate(made))
    if 0 in caps:
        assert not any(map(skipped, made[caps.index(0) :]))


@given(first=PLANS, second=PLANS, every=st.integers(1, 9))
def test_a_plan_ahead_is_what_is_carried_out_while_nothing_errs_and_counts_over_segments(first, second, every):
    state, one = ahead(State(), first, every, [INTERVAL] * len(first))
    state, two = ahead(state, [RUN, *second], every, [INTERVAL] * (len(second) + 1))
    assert one + two == carry_out([*first, RUN, *second], every)[0]
    verified = sum(now.instead is not None for now in one + two)
    assert verified == sum(map(skipped, first + second)) // every


@given(plan=PLANS)
def test_the_longest_row_of_a_plan_without_verifying(plan):
    rows = [len(list(group)) for each, group in itertools.groupby(plan, skipped) if each]
    assert longest(plan) == max(rows, default=0)


def test_a_verified_step_counts_into_the_row_that_it_ends():
    verdicts = ahead(State(), [RUN, *[SKIPPED] * 6], 2, [INTERVAL] * 7)[1]
    assert longest(verdicts) == 2 and longest(ahead(State(), [SKIPPED] * 3, 1, [INTERVAL] * 3)[1]) == 1
    assert [tightened(State(most=most), 5).most for most in (None, 5, 2, 1, 0)] == [2, 2, 1, 0, 0]


SCHEDULES = {
    "asynchronous": lambda: skyreels(frames=10, steps=9, ar_step=3, block=5),
    "prefix": lambda: skyreels(frames=6, steps=6, ar_step=2, block=2, pre_ready=2),
    "windows": lambda: magi(steps=8, chunks=3, window=2),
}
BENT = Profile((0.0, 0.4, 1.0), (3.0, 1.0, 2.0), (1.0, 30.0, 4.0))


def slow(schedule, profile, forwarded, iteration, mode):
    """By the formula of docs/placement.md, slot by slot; None where a slot has no velocity."""
    misses = []
    start = max(k for k in range(iteration + 1) if k == 0 or schedule.context_changed(k, k - 1))
    for slot in schedule.mask[iteration].nonzero().flatten().tolist():
        past = [k for k in range(iteration - 1, start - 1, -1) if k in forwarded and slot < forwarded[k][1]]
        past = [k for k in past if forwarded[k][0] <= slot]
        if not past:
            return None
        sigma = [float(schedule.noise_levels[k, slot]) for k in (iteration, *past[:2])]
        misses.append(miss(profile, *sigma[: 3 if mode is Mode.PREDICT else 2]))
    return math.sqrt(sum(each * each for each in misses) / len(misses))


@pytest.mark.parametrize("name", SCHEDULES)
@given(runs=st.lists(st.booleans(), min_size=30, max_size=30), mode=st.sampled_from([Mode.PREDICT, Mode.CACHE]))
def test_the_expected_error_is_the_bounds(name, runs, mode):
    schedule = SCHEDULES[name]()
    for profile in (assumed(), BENT):
        expectation, forwarded = Expectation(schedule, profile), {}
        for i, interval in enumerate(schedule.intervals):
            run = i == 0 or schedule.grew(i) or schedule.clean_prefix(i) > 0 or runs[i]
            decided = Mode.RECOMPUTE if run else mode
            verdict = StepDecision({interval: Decision(decided, "")}, interval if run else (0, 0), decided, "")
            if not run:
                found, expected = expectation.error(i, verdict), slow(schedule, profile, forwarded, i, mode)
                assert found == (expected if expected is None else pytest.approx(expected, rel=1e-9))
            else:
                forwarded[i] = interval
            expectation.note(i, verdict)


def test_the_expected_error_is_what_a_profile_was_made_from():
    """A velocity that changes at one rate everywhere and is held: g / (1 + g / 2), g being rate times distance."""
    schedule = skyreels(frames=5, steps=6, ar_step=0, block=5)
    expectation = Expectation(schedule, Profile((0.5,), (2.0,), (1e9,)))
    (interval,) = set(schedule.intervals)
    expectation.note(0, StepDecision({interval: Decision(Mode.RECOMPUTE, "")}, interval, Mode.RECOMPUTE, ""))
    held = StepDecision({interval: Decision(Mode.CACHE, "")}, (0, 0), Mode.CACHE, "")
    levels = schedule.noise_levels[:, 0]
    for i in range(1, 5):
        change = 2 * float(torch.abs(levels[i] - levels[0]))
        assert expectation.error(i, held) == pytest.approx(change / (1 + change / 2))
