"""Settings: where each value comes from, and what cannot be used."""

from __future__ import annotations

import logging
import math
import re
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from scope_patch.catalogue import check_names
from scope_patch.cli import parser
from scope_patch.errors import UsageError
from scope_patch.settings import LAUNCHER, NAMES, OPTIONS, PRESETS, Settings, flag, resolve_with_origins, switched_off


def test_defaults_aim_at_the_fast_preset() -> None:
    resolved = Settings.resolve({}, {})
    assert (resolved.preset, resolved.thresholds, resolved.target(PRESETS)) == ("fast", None, 5.27)
    assert resolved.target({"fast": 3.32}) == 3.32, "a host may have numbers of its own"
    assert (resolved.policy, resolved.predictor, resolved.max_skip, resolved.predict_decay) == (
        "scope",
        "auto",
        None,
        0.75,
    )
    assert (resolved.selective, resolved.report, resolved.strict) == (None, None, False)


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ({"preset": "slow"}, {}, (None, 4.55)),
        ({"target_speedup": "3"}, {}, (None, 3.0)),
        ({"target_speedup": 3, "preset": "slow"}, {}, (None, 3.0)),
        ({"preset": "slow", "cache_threshold": 0.2}, {}, (0.2, 1e9)),
        ({}, {"SCOPE_PATCH_PRESET": "slow", "SCOPE_PATCH_PREDICT_THRESHOLD": "0.2"}, (0.0, 0.2)),
        ({"preset": "fast"}, {"SCOPE_PATCH_CACHE_THRESHOLD": "0.1"}, (None, 5.27)),
        ({"preset": "fast"}, {"SCOPE_PATCH_TARGET_SPEEDUP": "2"}, (None, 5.27)),
        ({"target_speedup": 2}, {"SCOPE_PATCH_CACHE_THRESHOLD": "0.1"}, (None, 2.0)),
        ({"cache_threshold": 0.1}, {"SCOPE_PATCH_TARGET_SPEEDUP": "2"}, (0.1, 1e9)),
        ({"cache_threshold": "0"}, {"SCOPE_PATCH_PREDICT_THRESHOLD": "1e8"}, (0.0, 1e8)),
        ({}, {"SCOPE_PATCH_PRESET": ""}, (None, 5.27)),
        ({"preset": None}, {}, (None, 5.27)),
    ],
)
def test_the_strongest_source_says_how_much_is_skipped(
    flags: dict[str, Any], environ: dict[str, str], expected: tuple[object, ...]
) -> None:
    resolved = Settings.resolve(flags, environ)
    if expected[0] is None:
        assert (resolved.thresholds, resolved.target(PRESETS)) == expected
    else:
        assert resolved.thresholds == expected


def test_origins_name_the_source() -> None:
    environ = {"SCOPE_PATCH_MAX_SKIP": "2", "SCOPE_PATCH_SELECTIVE": "off"}
    resolved, origins = resolve_with_origins({"cache_threshold": "0.1"}, environ)
    assert (resolved.max_skip, resolved.selective) == (2, False)
    assert origins["cache_threshold"] == "flag --cache-threshold"
    assert origins["preset"] == origins["predict_threshold"] == "default"
    assert origins["max_skip"] == "environment SCOPE_PATCH_MAX_SKIP"
    assert origins["strict"] == "default"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"cache_threshold": 0.5, "predict_threshold": 0.3}, ["cache_threshold 0.5", "predict_threshold 0.3", "lower"]),
        ({"target_speedup": 0.5}, ["target_speedup is 0.5", "1 (nothing skipped) or more"]),
        ({"target_speedup": "twice"}, ["not a number", "--target-speedup"]),
        ({"target_speedup": 2, "cache_threshold": 0.5}, ["both given", "--target-speedup", "--cache-threshold"]),
        ({"cache_threshold": -1}, ["must not be negative"]),
        ({"predict_threshold": math.nan}, ["not finite", "1e9"]),
        ({"predict_threshold": "inf"}, ["not finite", "--predict-threshold"]),
        ({"cache_threshold": "abc"}, ["'abc'", "not a number", "--cache-threshold"]),
        ({"cache_threshold": True}, ["not a number"]),
        ({"max_skip": -1}, ["max_skip is -1", "0 (never skip) or more"]),
        ({"max_skip": "2.5"}, ["not a whole number"]),
        ({"max_skip": 2.5}, ["not a whole number"]),
        ({"widths": 0}, ["widths is 0", "1 (all alike) or more"]),
        ({"widths": "few"}, ["not a whole number", "--widths"]),
        ({"predict_decay": 1.5}, ["predict_decay is 1.5", "[0, 1]"]),
        ({"predict_decay": -0.1}, ["[0, 1]"]),
        ({"scales": "Z,X"}, ["scales is Z,X", "must be C or P"]),
        ({"verify": -1}, ["verify is -1", "0 (never) or more"]),
        ({"verify": "often"}, ["'often'", "not a whole number", "--verify"]),
        ({"verify_bound": -0.1}, ["verify_bound is -0.1", "not negative"]),
        ({"verify_bound": "nan"}, ["not finite", "--verify-bound"]),
        ({"preset": "fats"}, ["no preset 'fats'", "did you mean fast?"]),
        ({"preset": "zzz"}, ["known: fast, slow"]),
        ({"selective": "perhaps"}, ["neither on nor off"]),
        ({"policy": "scoop"}, ["no policy 'scoop'", "did you mean scope?"]),
        ({"predictor": "tailor2"}, ["no predictor 'tailor2'", "did you mean taylor2?"]),
        ({"report": "  "}, ["--report is empty"]),
        ({"report": ["x"]}, ["--report is ['x']", "no text"]),
        ({"signal": "latent"}, ["'latent' is gone", "before the first forward"]),
        ({"cache_treshold": 1}, ["no setting 'cache_treshold'", "did you mean cache_threshold?"]),
    ],
)
def test_what_cannot_be_used_is_one_sentence_with_a_remedy(flags: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        check_names(Settings.resolve(flags, {}))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_environment_is_named_in_its_errors() -> None:
    with pytest.raises(UsageError, match="environment SCOPE_PATCH_MAX_SKIP"):
        Settings.resolve({}, {"SCOPE_PATCH_MAX_SKIP": "many"})


def test_invalid_settings_cannot_be_constructed() -> None:
    with pytest.raises(UsageError):
        Settings(cache_threshold=1.0, predict_threshold=0.5)
    with pytest.raises(UsageError):
        Settings(cache_threshold=0.0, predict_threshold=math.inf)
    with pytest.raises(UsageError):
        Settings(cache_threshold=0.0, predict_threshold=0.5, preset="medium")


GIVEN = {
    **dict.fromkeys(("target_speedup", "max_skip", "widths", "verify"), "3"),
    **dict.fromkeys(("profile", "calibrate", "report", "registry"), "some/file"),
    "predictor": "hold",
    "policy": "never",
    "history_limit": "1GB",
    "scales": "R,S0.5u,Z",
}
THRESHOLD = st.floats(0, 1e12)


@settings(deadline=None)
@given(
    pair=st.one_of(st.none(), st.tuples(THRESHOLD, THRESHOLD).map(sorted)),
    rest=st.fixed_dictionaries(
        {},
        optional={
            "preset": st.sampled_from(sorted(PRESETS)),
            "max_skip": st.integers(0, 1000),
            "predict_decay": st.floats(0, 1),
            "policy": st.sampled_from(["scope", "never"]),
            "predictor": st.sampled_from(["hold", "auto"]),
            "selective": st.booleans(),
            "widths": st.integers(1, 30),
            "history_limit": st.sampled_from(["500MB", "1.5 GiB:drop", "0"]),
            "strict": st.booleans(),
            "scales": st.sampled_from(["Z", "R,S0.5u,Ru,L"]),
            "verify": st.integers(0, 99),
            "verify_bound": st.floats(0, 10),
            "report": st.just("some/where.json"),
        },
    ),
)
def test_a_child_resolves_exactly_these_settings(pair: list[float] | None, rest: dict[str, Any]) -> None:
    flags = rest | ({} if pair is None else dict(zip(("cache_threshold", "predict_threshold"), pair, strict=True)))
    resolved = Settings.resolve(flags, {})
    assert Settings.resolve({}, resolved.to_environ()) == resolved


def test_report_path_is_absolute_before_anybody_changes_directory(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.resolve({"report": "run.json"}, {}).report == str(tmp_path / "run.json")


def test_unknown_variables_warn_with_the_nearest_name(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"SCOPE_PATCH_CACHE_TRESHOLD": "1", "SCOPE_PATCH_UPSTREAM": "x", "SCOPE_PATCH": "1", "OTHER": "x"}
    with caplog.at_level(logging.WARNING, "scope_patch"):
        Settings.resolve({}, environ)
    assert [record.getMessage() for record in caplog.records] == [
        "environment variable SCOPE_PATCH_CACHE_TRESHOLD is not known and is ignored; "
        "did you mean SCOPE_PATCH_CACHE_THRESHOLD?"
    ]
    caplog.clear()
    Settings.resolve({}, {**environ, LAUNCHER: "1:3.11:python"})  # the launcher has said it
    assert not caplog.records


@pytest.mark.parametrize(("value", "off"), [("0", True), ("OFF", True), ("no", True), ("1", False), ("", False)])
def test_kill_switch(value: str, off: bool) -> None:
    assert switched_off({"SCOPE_PATCH": value}) is off
    assert switched_off({}) is False


def test_kill_switch_with_a_value_nobody_understands() -> None:
    with pytest.raises(UsageError, match="SCOPE_PATCH is 'maybe'"):
        switched_off({"SCOPE_PATCH": "maybe"})


def test_every_setting_has_a_variable() -> None:
    names = set()
    for flags in (
        {"target_speedup": 2},
        {"cache_threshold": 0, "predict_threshold": 1, "report": "x", "signal": "expected"},
        {"placement": "error", "profile": "p", "registry": "r"},
        {"policy": "never", "calibrate": "p", "level": "velocity"},
        {"widths": 3, "history_limit": "1GB", "max_skip": 3, "scales": "Z", "replay": False},
        {"selective": True},
    ):
        names |= set(Settings.resolve(flags, {}).to_environ())
    assert names == {f"SCOPE_PATCH_{name.upper()}" for name in NAMES}


ROW = re.compile(r"^\| (`--.*?) \| (.*) \|$", re.MULTILINE)


def test_readmes_table_has_every_setting_with_its_default() -> None:
    section = (ROOT / "README.md").read_text().partition("## Options")[2].partition("\n## ")[0]
    rows: dict[str, list[tuple[str, str]]] = {}
    for options, meaning in ROW.findall(section):
        for option in re.findall(r"`(--[^`]*)`", options):
            name, _, takes = option.replace("--no-", "--").partition(" ")
            rows.setdefault(name, []).append((takes, f"{option} {meaning}"))
    wanted = {flag(name): name for name, option in OPTIONS.items() if "run" in option.commands}
    assert rows.keys() == {*wanted, "--dry-run"}
    for row, name in wanted.items():
        default, takes = getattr(Settings(), name), OPTIONS[name].takes
        text = " ".join(meaning for _, meaning in rows[row])
        if name in ("replay", "selective"):  # on or off by what else was asked for, or by the model
            assert f"--no-{row[2:]}" in text
        elif isinstance(default, bool):
            assert (f"--no-{row[2:]}" in text) is default, f"{row} is {'on' if default else 'off'} by default"
        elif default is not None:
            shown = f"{default:g}" if isinstance(default, int | float) else default
            assert re.search(rf"(?<![\w.]){re.escape(shown)}(?![\w.])", text, re.IGNORECASE), f"{row}: {shown}"
        if isinstance(takes, tuple):
            assert rows[row][0][0] == "{" + ",".join(takes) + "}"


@pytest.mark.parametrize("name", NAMES)
def test_every_option_reaches_its_setting(name: str) -> None:
    """The words of the command line and the variable's text give the same value."""
    option, default = OPTIONS[name], getattr(Settings(), name)
    if isinstance(default, bool) or name in ("replay", "selective"):
        words, text = [f"--no-{flag(name)[2:]}" if default else flag(name)], str(int(not default))
    else:
        text = option.takes[0] if isinstance(option.takes, tuple) else GIVEN.get(name, "0.5")
        words = [flag(name), text]
    command = option.commands[0]
    given = parser().parse_args([command, *words])
    assert getattr(given, name) in (text, text == "1")
    more = {"policy": "never"} if name == "calibrate" else {}
    resolved = Settings.resolve({name: getattr(given, name), **more}, {})
    environ = {f"SCOPE_PATCH_{key.upper()}": value for key, value in {name: text, **more}.items()}
    assert resolved == Settings.resolve({}, environ) != Settings()
