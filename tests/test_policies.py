"""The laws of the scheduler (equations 3 to 5), on drawn sequences of observations."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_patch.errors import UsageError
from scope_patch.method import policies
from scope_patch.method.decision import Decision, Mode, Observation
from scope_patch.settings import Settings

observations = st.builds(
    Observation,
    discrepancy=st.none() | st.floats(0, 1),
    grew=st.booleans(),
    points=st.integers(0, 3),
    hold_if_short=st.booleans(),
    forced=st.sampled_from([False, False, False, True]),
)
plain = st.builds(Observation, discrepancy=st.floats(0, 1), grew=st.just(False), points=st.just(3))


def scope(cache=0.18, predict=0.42, skips=5, decay=0.75):
    return policies.create(
        Settings(cache_threshold=cache, predict_threshold=predict, max_skip=skips, predict_decay=decay)
    )


def run(policy, seen):
    state, out = policy.initial(), []
    for observation in seen:
        state, decision = policy.step(state, observation)
        out.append((decision, state))
    return out


@given(st.lists(observations, max_size=60), st.integers(0, 6))
def test_never_more_than_k_max_skips_in_a_row(seen, skips):
    modes = [decision.mode for decision, _ in run(scope(0.3, 1e9, skips), seen)]
    runs = [len(list(group)) for mode, group in itertools.groupby(m is Mode.RECOMPUTE for m in modes) if not mode]
    assert max(runs, default=0) <= skips


@given(st.lists(observations, max_size=40))
def test_recompute_resets_and_the_rest_accumulates(seen):
    accumulated = 0.0
    for observation, (decision, state) in zip(seen, run(scope(), seen), strict=True):
        accumulated += observation.discrepancy or 0.0
        if decision.mode is Mode.RECOMPUTE:
            accumulated = 0.0
        elif decision.mode is Mode.PREDICT:
            assert 0.18 <= accumulated < 0.42
            accumulated *= 0.75
        else:
            assert accumulated < 0.18 or decision.reason == "history"
        assert state.accumulated == pytest.approx(accumulated)


@given(st.lists(observations, max_size=40))
def test_nothing_is_skipped_without_what_it_needs(seen):
    for observation, (decision, _) in zip(seen, run(scope(0.3, 1e9), seen), strict=True):
        if decision.mode is not Mode.RECOMPUTE:
            assert not observation.grew and not observation.forced and observation.points >= 1
            assert decision.reason == "threshold" or (decision.reason == "history" and observation.hold_if_short)
        if decision.mode is Mode.PREDICT:
            assert observation.points >= 2


@given(st.lists(plain, max_size=40))
def test_zero_skips_or_zero_thresholds_recompute_everything(seen):
    for policy in (scope(skips=0), scope(cache=0, predict=0)):
        assert {decision.mode for decision, _ in run(policy, seen)} <= {Mode.RECOMPUTE}


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (Observation(None, True, 0), Decision(Mode.RECOMPUTE, "growth")),
        (Observation(0.01, True, 3), Decision(Mode.RECOMPUTE, "growth")),
        (Observation(0.01, False, 0), Decision(Mode.RECOMPUTE, "history")),
        (Observation(0.01, False, 1), Decision(Mode.CACHE, "threshold")),
        (Observation(0.2, False, 1), Decision(Mode.RECOMPUTE, "history")),
        (Observation(0.2, False, 1, hold_if_short=True), Decision(Mode.CACHE, "history")),
        (Observation(0.2, False, 2), Decision(Mode.PREDICT, "threshold")),
        (Observation(0.2, False, 2, forced=True), Decision(Mode.RECOMPUTE, "forced")),
        (Observation(0.5, False, 3), Decision(Mode.RECOMPUTE, "threshold")),
        (Observation(float("nan"), False, 3), Decision(Mode.RECOMPUTE, "threshold")),
    ],
)
def test_each_rule(observation, expected):
    assert run(scope(), [observation])[0][0] == expected


def test_never_recomputes_and_says_forced():
    policy = policies.create(Settings(cache_threshold=0.1, predict_threshold=0.2, policy="never"))
    assert run(policy, [Observation(0.0, False, 3)])[0][0] == Decision(Mode.RECOMPUTE, "forced")
    assert not policy.active


def test_unknown_policy():
    with pytest.raises(UsageError, match="scope"):
        policies.create(Settings(cache_threshold=0.1, predict_threshold=0.2, policy="scoop"))
