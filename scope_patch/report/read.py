"""A report file back into a record, so that a picture tells the same as the summary that closed the run.

The file may be anything: what is wrong is said with the place where it stands.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..errors import UsageError
from ..settings import NAMES, Settings
from .record import APPLIED, NOT_APPLIED, SCALES, SCHEMA, WORDS, GenerationRecord, Run, Segment, Sums

MOST_CELLS = 20_000_000  # iterations times latent frames of a segment; more is no video, but a damaged file

T = TypeVar("T")
_KINDS = {
    dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "yes or no",
    NoneType: "null",
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """A run as it was, and its settings word by word: another version may have others than ours."""

    run: Run
    settings: dict[str, Any]


def read(path: str) -> Report:
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
        return parse(values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def parse(values: object) -> Report:
    """A report out of what its JSON says. Raises UsageError."""
    if not isinstance(values, dict):
        raise UsageError(f"a report is an object with 'schema' {SCHEMA}, but this is {_KINDS[type(values)]}")
    schema = values.get("schema", "none")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:  # the first had neither processes nor ranks
        raise UsageError(
            f"its 'schema' is {schema!r}, and this version reads 1 to {SCHEMA}: not made by `run --report`?"
        )
    node = Node(values, "the report")
    host, settings = node.get("host", str | None, None), node.get("settings", dict[str, Any], {})
    generations = node.get("generations", list[dict[str, Any]])
    run = Run(
        _settings(settings),
        hosts=[host] if host else [],
        reasons=node.get("reasons", list[str], []),
        generations=[generation_of(Node(each, f"generation {k}")) for k, each in enumerate(generations, start=1)],
        omitted=node.get("omitted", Sums, Sums()),
    )
    return Report(run, settings)


@dataclass(frozen=True)
class Node:
    """One object of a report, and where it stands in it ("segment 2 of generation 1")."""

    values: Mapping[str, Any]
    name: str

    def get(self, key: str, wanted: Any, default: Any = MISSING) -> Any:
        """The value of `key`, as a type like str, int | None, list[str], dict[str, int].

        Raises UsageError where it is missing without a default, or of another type.
        """
        if key in self.values:
            return _typed(self.values[key], wanted, f"{self.name}: {key!r}")
        if default is MISSING:
            raise UsageError(f"{self.name} has no {key!r} (it has {', '.join(map(repr, self.values)) or 'nothing'})")
        return default

    def fill(self, record: type[T], **given: Any) -> T:
        """A record out of the values of its fields' names, those given aside. Raises UsageError as `get` does."""
        hints = get_type_hints(record)
        for each in fields(record):  # type: ignore[arg-type]
            needed = each.default is MISSING and each.default_factory is MISSING
            if each.name not in given and (needed or each.name in self.values):
                given[each.name] = self.get(each.name, hints[each.name])
        return record(**given)

    def check(self, condition: bool, otherwise: str) -> None:
        if not condition:
            raise UsageError(f"{self.name}: {otherwise}")

    def bounds(self, key: str, most: int) -> list[list[int]]:
        """Lists of rising numbers 0 .. `most`, two for every range. Raises UsageError."""
        rows: list[list[Any]] = self.get(key, list[list[Any]])
        for k, row in enumerate(rows):
            numbers = all(type(number) is int for number in row)
            if len(row) % 2 or not numbers or sorted(row) != row or (row and not 0 <= row[0] <= row[-1] <= most):
                raise UsageError(f"{self.name}: {key!r}[{k}] is {row}, expected ranges inside [0, {most}]")
        return rows


def _typed(value: Any, wanted: Any, place: str) -> Any:
    if wanted is Any:
        return value
    origin, inner = get_origin(wanted) or wanted, get_args(wanted)
    if origin is UnionType:
        return None if value is None else _typed(value, inner[0], place)
    if is_dataclass(origin):
        return Node(_typed(value, dict, place), place).fill(wanted)
    if origin is float and type(value) is int and abs(value) < 2**1023:
        value = float(value)
    if type(value) is not origin:
        raise UsageError(f"{place} is {_KINDS[type(value)]}, expected {_KINDS[origin]}")
    if origin is list and inner:
        return [_typed(each, inner[0], f"{place}[{k}]") for k, each in enumerate(value)]
    if origin is dict and inner:
        return {_clean(name): _typed(each, inner[1], f"{place}, {name!r}") for name, each in value.items()}
    return _clean(value) if origin is str else value


def _clean(text: str) -> str:
    """A text that any file and any terminal takes: no control characters, no halves of a surrogate pair."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text)


def _settings(values: dict[str, Any]) -> Settings:
    """Those we know, of values that this version takes: another one may have had others."""
    known = Settings()
    for name in filter(values.__contains__, NAMES):
        with suppress(UsageError):
            known = replace(known, **{name: values[name]})
    return known


def generation_of(node: Node) -> GenerationRecord:
    """One generation of a report. Raises UsageError."""
    forwards, segments = node.get("forwards", dict[str, int], {}), node.get("segments", list[dict[str, Any]])
    return node.fill(
        GenerationRecord,
        applied=node.get("status", str, APPLIED) != NOT_APPLIED,
        segments=[_segment(Node(each, f"segment {k} of {node.name}")) for k, each in enumerate(segments, start=1)],
        forwards_run=forwards.get("run", 0),
        forwards_skipped=forwards.get("skipped", 0),
        planned=[_plan(Node(plan, f"{node.name}, a plan")) for plan in node.get("planned", list[dict[str, Any]], [])],
        finished=node.get("finished", bool, True),
    )


def _plan(node: Node) -> dict[str, Any]:
    return {
        "work": node.get("work", float),
        "baseline": node.get("baseline", float),
        "unit": node.get("unit", str, "flops"),
        "target": node.get("target", float | None, None),
        "tightened": node.get("tightened", float, 0.0),
    }


def _segment(node: Node) -> Segment:
    iterations, modes = node.get("iterations", int), node.get("modes", str)
    strange = sorted(set(modes) - set("CPR"))
    node.check(not strange, f"'modes' has {', '.join(map(repr, strange))}, expected C, P and R only")
    node.check(len(modes) <= iterations, f"'modes' has {len(modes)} letters for {iterations} iterations")
    frames = node.get("frames", int, 0)
    intervals = node.bounds("intervals", frames or MOST_CELLS)
    node.check(all(len(bounds) == 2 for bounds in intervals), "an interval is no [start, end]")
    segment = node.fill(
        Segment,
        modes=list(modes),
        reasons=node.get("reasons", list[str]),
        intervals=[(start, end) for start, end in intervals],
        active=node.bounds("active", frames) if frames else [],
    )
    for name, each in {"reasons": segment.reasons, "intervals": intervals, "slots": segment.slots or modes}.items():
        node.check(len(each) == len(modes), f"{name!r} has {len(each)} entries, but 'modes' {len(modes)}")
    node.check(segment.steps in WORDS, f"'steps' is {segment.steps!r}, expected {SCALES!r} or nothing")
    active, cells = len(segment.active), max(frames, *(end for _, end in intervals), 1) * iterations
    node.check(active in (0, iterations), f"'active' has {active} entries, but 'iterations' {iterations}")
    node.check(cells <= MOST_CELLS, f"{iterations} iterations x {frames} latent frames are more than can be drawn")
    node.check(not segment.slots or segment.chunk > 0, "'slots' without how many latent frames a chunk has ('chunk')")
    for k, (letters, (start, _)) in enumerate(zip(segment.slots, intervals, strict=False)):
        if set(letters) - set("CPRF") or start + len(letters) * segment.chunk > frames:
            raise UsageError(f"{node.name}: 'slots'[{k}] is {letters!r}, expected C, P, R, F of chunks that there are")
    for k, each in enumerate(segment.verified):
        errors = [error for error in (each.expected, each.error) if error is not None]
        if not 0 <= each.iteration < len(modes) or any(not 0 <= error < math.inf for error in errors):
            raise UsageError(f"{node.name}: 'verified'[{k}]: no iteration that ran, or no errors, in {asdict(each)}")
    return segment
