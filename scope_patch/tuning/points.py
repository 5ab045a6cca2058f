"""What is tried, and the log of it: points, each a method at one of its settings, on jobs: a prompt and a seed each.

The log has one JSON line a run, added to as runs end, and is read back whatever an interruption left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from .. import registry
from ..errors import UsageError, unknown
from ..settings import NAMES, PRESETS
from ..values import number

OURS = "scope"  # the method that the others are compared with: this package at its defaults
ORIGINAL = "original"
"""The host's own video, with which the others are compared. It runs under policy `never`, which is bit-identical to the
unpatched host, so that its DiT is timed as theirs is."""
KEY = ("host", "method", "point", "prompt", "seed", "options")  # what tells a row from all others
OK, FAILED, UNAVAILABLE = "ok", "failed", "unavailable"
LOG = "runs.jsonl"

Case = tuple[str, int]  # (prompt, seed) of a video
Row = dict[str, Any]

_MAIN = {"teacache": "teacache_thresh", "taylorseer": "interval", "flowcache": "rel_l1_thresh", "delta-dit": "interval"}
"""The setting of a policy's own that a bare value in `NAME:VALUE` stands for."""
_OF_ALL = ("registry", "strict", "rank_timeout")  # they decide nothing, and the original needs them as well
METHODS = (OURS, "scope-thresholds", *_MAIN, "steps")


@dataclass(frozen=True, eq=False)
class Point:
    """One line of a table: a method, and the settings of its runs by name.

    Of the host's own options `instead` are of these runs alone (fewer steps: originals are made without them), `video`
    of their originals as well (a length). `x`: where it stands on the axis of a figure over a setting (K, frames).
    """

    method: str
    name: str
    settings: dict[str, Any]
    instead: dict[str, Any] = field(default_factory=dict)
    video: dict[str, Any] = field(default_factory=dict)
    host: str = ""
    x: float | None = None

    @property
    def original(self) -> Point:
        """What it is compared with."""
        kept = {name: value for name, value in self.settings.items() if name in _OF_ALL}
        return Point(ORIGINAL, "", {"policy": "never", **kept}, video=self.video, host=self.host)

    def under(self, settings: dict[str, Any]) -> Point:
        """The same with more settings, which do not win over its own."""
        return replace(self, settings={**settings, **self.settings})


@dataclass(frozen=True, eq=False)
class Job:
    """One run that is to be made."""

    point: Point
    prompt: str = ""
    seed: int = 0

    @property
    def original(self) -> Job:
        return replace(self, point=self.point.original)

    def key(self, fingerprint: str) -> tuple[str, str, str, str, int, str]:
        """The values of KEY. `fingerprint`: of the command, of weights, of versions."""
        point = self.point
        options = digest(fingerprint, point.settings, point.instead, point.video)
        return point.host, point.method, point.name, self.prompt, self.seed, options


def digest(*values: Any) -> str:
    """Ten letters that differ wherever the values do."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


@cache
def code() -> str:
    """Eight letters of the sources that decide and forward: not of what only measures them."""
    package = Path(__file__).resolve().parent.parent
    found = hashlib.sha256()
    for folder in (package, Path(registry.__path__[0])):
        for path in sorted(folder.rglob("*.py")):
            if package / "tuning" not in path.parents:
                found.update(path.read_bytes())
    return found.hexdigest()[:8]


def target(speedup: float) -> Point:
    """Ours, aimed at a speed-up."""
    return Point(OURS, f"target {speedup:g}", {"target_speedup": float(speedup)}, x=float(speedup))


def parse(text: str) -> Point:
    """`scope:3`, `scope:fast`, `scope-thresholds:0.18,0.42`, `teacache:0.1`, `taylorseer:interval=4,max_order=2`,
    `flowcache:target_speedup=2`, `steps:10`: a point. Names of settings of a run are settings, others the policy's own.

    Raises UsageError.
    """
    name, _, rest = text.partition(":")
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    words = [word.strip() for word in rest.split(",") if word.strip()]
    bare, pairs = [word for word in words if "=" not in word], [word.split("=", 1) for word in words if "=" in word]
    own = {key.strip(): value.strip() for key, value in pairs}
    settings: dict[str, Any] = {key: own.pop(key) for key in list(own) if key in NAMES}
    if name == "steps":
        if len(bare) != 1 or pairs:
            raise UsageError(f"{text!r}: write steps:N, the number of steps that {{steps}} in the command stands for")
        return Point("reduced steps", f"{bare[0]} steps", {"policy": "never"}, {"steps": bare[0]})
    most = 2 if name == "scope-thresholds" else 1
    if len(bare) not in (0, most):
        count = f"{most} bare value{'s' if most > 1 else ''}"
        raise UsageError(f"{text!r}: {name} takes {count}; name the others key=value")
    if name in _MAIN:
        if bare:
            own.setdefault(_MAIN[name], bare[0])
        written = ",".join(f"{key}={value}" for key, value in own.items())
        settings["policy"] = f"{name}:{written}" if own else name
    elif len(bare) == 2:
        settings |= {"cache_threshold": number(bare[0], text), "predict_threshold": number(bare[1], text)}
    elif bare:
        settings |= {"preset": bare[0]} if bare[0] in PRESETS else {"target_speedup": number(bare[0], text)}
    elif name == "scope-thresholds":
        settings["placement"] = "threshold"
    if own and name not in _MAIN:
        raise UsageError(f"{text!r}: {', '.join(own)} is no setting of a run; `run --help` lists them")
    if settings.keys() == {"target_speedup"} and name == OURS:
        return target(number(settings["target_speedup"], text))
    return Point(name, rest or "defaults", settings)


class Log:
    """The rows of a file by key, the newest of each. `broken`: lines that are none, left by an interruption."""

    def __init__(self, path: Path) -> None:
        self.path, self.broken = path, 0
        self.rows: dict[tuple[Any, ...], Row] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._cut = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self.rows[tuple(row[name] for name in KEY)] = row
            except (ValueError, KeyError, TypeError):
                self.broken += bool(line.strip())

    def found(self, job: Job, fingerprint: str) -> Row | None:
        """The row of a run that went well. One that failed may do better now."""
        row = self.rows.get(job.key(fingerprint))
        return row if row is not None and row["status"] == OK else None

    def of(self, points: Iterable[Point], fingerprint: str) -> list[Row]:
        """The rows of these points and of their originals, as they are now: not of other settings or versions."""
        wanted = {Job(each).key(fingerprint) for point in points for each in (point, point.original)}
        # Whatever its video: a job that says none has these.
        return [row for key, row in self.rows.items() if (*key[:3], Job.prompt, Job.seed, key[-1]) in wanted]

    def add(self, row: Row) -> None:
        """Write the row down, unless the newest of its key says the same failure."""
        key = tuple(row[name] for name in KEY)
        before = self.rows.get(key)
        if before is not None and row["status"] != OK and before.get("reason") == row.get("reason"):
            return
        self.rows[key] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if self._cut else "") + json.dumps(row) + "\n")
        self._cut = False
