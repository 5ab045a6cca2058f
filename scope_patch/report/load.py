"""A report file back into a record, so that a picture tells the same as the summary that closed the run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..settings import NAMES, Settings
from .checks import Place, clean, kind
from .record import SCHEMA, Generation, Omitted, Run, Seconds, Segment, Verified

MOST_CELLS = 20_000_000
"""Iterations times latent frames of a segment; more is no video, but a damaged file."""


@dataclass(frozen=True)
class Loaded:
    """A run as it was, and its settings word by word: another version may have others than ours."""

    run: Run
    settings: dict[str, Any]


def load(path: str) -> Loaded:
    """Read the report at `path`. Raises UsageError with what was found instead of a report."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); make it with `run --report FILE`") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no report: it is not even text") from None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        begins = f"it begins with {text[:20]!r}" if text.strip() else "it is empty"
        raise UsageError(f"{path} is no JSON ({error}); {begins}") from None
    try:
        return loaded(values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def loaded(values: object) -> Loaded:
    """A report out of what its JSON says. Raises UsageError."""
    if not isinstance(values, dict):
        raise UsageError(f"a report is an object with 'schema' {SCHEMA}, but this is {kind(values)}")
    report = Place(values, "the report")
    schema = report.values.get("schema", "none")
    if schema != SCHEMA:
        raise UsageError(f"its 'schema' is {schema!r}, and this version reads {SCHEMA}: not made by `run --report`?")
    settings = report.get("settings", dict, {})
    host = report.text("host")
    generations = report.items("generations", dict, required=True)
    run = Run(
        _settings(settings),
        hosts=[host] if host else [],
        reasons=report.items("reasons", str),
        generations=[_generation(Place(each, f"generation {k}")) for k, each in enumerate(generations, start=1)],
        omitted=_omitted(Place(report.get("omitted", dict, {}), "'omitted'")),
    )
    return Loaded(run, {clean(name): value for name, value in settings.items()})


def _settings(values: dict[str, Any]) -> Settings:
    """Those we know. Raises UsageError where one cannot be."""
    try:
        return Settings(**{name: values[name] for name in NAMES if name in values})
    except TypeError as error:
        raise UsageError(f"the report's settings cannot be read: {error}") from None


def _generation(place: Place) -> Generation:
    forwards, seconds = (Place(place.get(key, dict, {}), f"{place.name}, {key!r}") for key in ("forwards", "seconds"))
    segments = place.items("segments", dict, required=True)
    plans = [Place(plan, f"{place.name}, a plan") for plan in place.items("planned", dict)]
    return Generation(
        applied=place.get("status", str, "applied") == "applied",
        reasons=place.items("reasons", str),
        segments=[_segment(Place(each, f"segment {k} of {place.name}")) for k, each in enumerate(segments, start=1)],
        forwards_run=forwards.get("run", int, 0),
        forwards_skipped=forwards.get("skipped", int, 0),
        seconds=Seconds(*(seconds.get(name, float, 0.0) for name in ("total", "dit", "overhead"))),
        history_bytes_peak=place.get("history_bytes_peak", int, 0),
        guards=place.counts("guards"),
        forced=place.counts("forced"),
        signal=place.text("signal"),
        planned=[_plan(plan) for plan in plans],
        remarks=place.items("remarks", str),
        finished=place.get("finished", bool, True),
        error=place.text("error"),
    )


def _omitted(place: Place) -> Omitted:
    seconds = Place(place.get("seconds", dict, {}), f"{place.name}, 'seconds'")
    modes = place.counts("modes")
    made = Omitted(
        modes={mode: modes.get(mode, 0) for mode in "CPR"},
        seconds=Seconds(*(seconds.get(name, float, 0.0) for name in ("total", "dit", "overhead"))),
    )
    counts = [each.name for each in fields(Omitted) if each.name not in ("modes", "seconds")]
    found: dict[str, Any] = {name: place.get(name, int, 0) for name in counts}
    return replace(made, **found)


def _plan(place: Place) -> dict[str, Any]:
    aimed = place.values.get("target") is not None
    return {
        "work": place.get("work", float),
        "baseline": place.get("baseline", float),
        "target": place.get("target", float) if aimed else None,
        "tightened": place.get("tightened", float, 0.0),
    }


def _segment(place: Place) -> Segment:
    iterations, modes = place.get("iterations", int), place.get("modes", str)
    strange = sorted(set(modes) - set("CPR"))
    if strange:
        raise UsageError(f"{place.name}: 'modes' has {', '.join(map(repr, strange))}, expected C, P and R only")
    if len(modes) > iterations:
        raise UsageError(f"{place.name}: 'modes' has {len(modes)} letters for {iterations} iterations")
    reasons, slots = place.items("reasons", str, required=True), place.items("slots", str)
    frames = place.get("frames", int, 0)
    intervals = place.bounds("intervals", frames or MOST_CELLS)
    active = place.bounds("active", frames) if frames else []
    for name, rows in (("'reasons'", reasons), ("'intervals'", intervals), ("'slots'", slots)):
        if rows or name != "'slots'":
            place.same_length(name, "'modes'", (len(rows), len(modes)))
    if active:
        place.same_length("'active'", "'iterations'", (len(active), iterations))
    if any(len(bounds) != 2 for bounds in intervals):
        raise UsageError(f"{place.name}: an interval is no [start, end]")
    if max(frames, *(end for _, end in intervals), 1) * iterations > MOST_CELLS:
        raise UsageError(f"{place.name}: {iterations} iterations x {frames} latent frames are more than can be drawn")
    made = Segment(
        iterations,
        list(modes),
        reasons,
        [(start, end) for start, end in intervals],
        place.get("slots_baseline", int, 0),
        place.get("slots_computed", int, 0),
        place.get("selective", bool, False),
        place.get("note", str, ""),
        frames,
        active,
        place.get("chunk", int, 0),
        slots,
        [
            _verified(Place(each, f"{place.name}, 'verified'[{k}]"), len(modes))
            for k, each in enumerate(place.items("verified", dict))
        ],
    )
    _check_slots(place, made)
    return made


def _verified(place: Place, ran: int) -> Verified:
    """Raises UsageError where an iteration has not run, or an error cannot be."""
    iteration = place.get("iteration", int)
    expected, error = (
        None if place.values.get(name) is None else place.get(name, float) for name in ("expected", "error")
    )
    tightened = None if place.values.get("tightened") is None else place.get("tightened", int)
    if not 0 <= iteration < ran or any(each is not None and not 0 <= each < math.inf for each in (expected, error)):
        raise UsageError(f"{place.name}: no iteration that ran, or no errors, in {dict(place.values)}")
    return Verified(iteration, expected, error, tightened)


def _check_slots(place: Place, segment: Segment) -> None:
    """Raises UsageError where what is said of chunks does not fit the latent frames there are."""
    if segment.slots and segment.chunk < 1:
        raise UsageError(f"{place.name}: 'slots' without how many latent frames a chunk has ('chunk')")
    for k, (letters, (start, _)) in enumerate(zip(segment.slots, segment.intervals, strict=False)):
        if set(letters) - set("CPRF") or start + len(letters) * segment.chunk > segment.frames:
            raise UsageError(f"{place.name}: 'slots'[{k}] is {letters!r}, expected C, P, R, F of chunks that there are")
