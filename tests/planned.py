"""`plan` beside a run: what hypothesis draws for both, what the command says, and where the two part."""

from __future__ import annotations

import contextlib
import io
import json
import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from scope_patch.cli import main

SOME = int(os.environ.get("PLANNED_EXAMPLES", "10"))
"""Examples a host; a night may take more."""
few = settings(
    max_examples=SOME,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # shrinking takes minutes here
)


def how(thresholds=0.5):
    """One of the three ways to say how much is skipped, or none: options of `plan`, and settings of a run."""
    pairs = st.tuples(st.floats(0, thresholds / 2), st.floats(0, thresholds)).map(sorted)
    return st.one_of(
        st.fixed_dictionaries({"target_speedup": st.floats(1, 6)}),
        st.fixed_dictionaries({"preset": st.sampled_from(["slow", "fast"])}),
        pairs.map(lambda pair: dict(zip(("cache_threshold", "predict_threshold"), pair, strict=True))),
    )


def more(signals=("timestep", "expected"), **others):
    """What else decides."""
    return st.fixed_dictionaries(
        {
            "signal": st.sampled_from(signals),
            "placement": st.sampled_from([None, "error", "threshold"]),
            "max_skip": st.integers(0, 7),
            "predict_decay": st.sampled_from([0.75, 0.25, 1.0]),
            "policy": st.sampled_from(["scope", "scope", "scope", "never"]),
            "verify": st.sampled_from([0, 2, 5]),
            "verify_bound": st.just(1e9),  # nothing tightens
            **others,
        }
    )


def plan(host, **options):
    """(what `plan --json` says, "") or (None, the error): options by name, booleans as flags, None left out."""
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            words += [f"--{flag}", *map(str, value)]
        elif value is not None:
            words.append(f"--{flag}={value}")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["plan", host, "--json", *words])
    assert code in (0, 2), err.getvalue()
    return (json.loads(out.getvalue()), "") if code == 0 else (None, err.getvalue())


def check(told, generation):
    """The plan is what was planned in the run, and that is what was done."""
    assert told["exact"]
    parts, segments, inside = told["plan"]["parts"], generation["segments"], generation["planned"]
    assert [part["modes"] for part in parts] == [segment["modes"] for segment in segments]
    assert told["plan"]["forwards"] == {name: generation["forwards"][name] for name in ("baseline", "run")}
    for part, segment in zip(parts, segments, strict=True):
        assert part["verified"]["iterations"] == [each["iteration"] for each in segment["verified"]]
    for part, planned in zip(parts, inside, strict=bool(inside)):
        assert part["modes"] == planned["modes"]
        assert round(part["original"] / part["planned"], 4) == planned["speedup"]
        pairs = zip(part["thresholds"] or (), planned["thresholds"] or (), strict=True)
        assert all(abs(a - b) <= 1e-4 * b for a, b in pairs)
        assert told["target"] == planned["target"]
