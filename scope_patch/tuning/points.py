"""What is tried: points, each a method at one of its settings, on jobs, each a point with a prompt and a seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UsageError, unknown
from ..settings import NAMES, PRESETS
from ..values import number

OURS = "scope"
"""The method that the others are compared with: this package at its defaults."""
ORIGINAL = "original"
"""The host's own video, with which the others are compared. It runs under policy `never`, which is bit-identical to the
unpatched host, so that its DiT is timed as theirs is."""

Key = tuple[str, str, str, str, int, str]

_MAIN = {"teacache": "teacache_thresh", "taylorseer": "interval", "flowcache": "rel_l1_thresh", "delta-dit": "interval"}
"""The setting of a policy's own that a bare value in `NAME:VALUE` stands for."""
_OF_ALL = ("registry", "strict", "rank_timeout")
"""Settings that decide nothing, and that the original needs as well."""
METHODS = ("scope", "scope-thresholds", *_MAIN, "steps")


@dataclass(frozen=True, eq=False)
class Point:
    """One line of a table.

    Attributes:
        settings: those of a run, by name; None leaves the host as it is.
        instead: the host's own options of this run alone (fewer steps); its original is made without them.
        video: the host's own options of the run and of its original (a length).
        x: where it stands on the axis of a figure over a setting (K, frames).
    """

    method: str
    name: str
    settings: dict[str, Any] | None
    instead: dict[str, Any] = field(default_factory=dict)
    video: dict[str, Any] = field(default_factory=dict)
    host: str = ""
    x: float | None = None

    @property
    def original(self) -> Point:
        """What it is compared with."""
        kept = {name: value for name, value in (self.settings or {}).items() if name in _OF_ALL}
        return Point(ORIGINAL, "", {"policy": "never", **kept}, video=self.video, host=self.host)

    def under(self, settings: dict[str, Any]) -> Point:
        """The same with more settings, which do not win over its own."""
        return self if self.settings is None else replace(self, settings={**settings, **self.settings})


@dataclass(frozen=True, eq=False)
class Job:
    """One run that is to be made."""

    point: Point
    prompt: str = ""
    seed: int = 0

    @property
    def original(self) -> Job:
        """The run that it is compared with."""
        return Job(self.point.original, self.prompt, self.seed)

    def key(self, fingerprint: str) -> Key:
        """What tells a run from all others. `fingerprint`: of the command, of weights, of versions."""
        return self.point.host, self.point.method, self.point.name, self.prompt, self.seed, self.options(fingerprint)

    def options(self, fingerprint: str) -> str:
        """Ten letters of all that the point asks for."""
        return digest(fingerprint, self.point.settings, self.point.instead, self.point.video)


def digest(*values: Any) -> str:
    """Ten letters that differ wherever the values do."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


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
    values, pairs = [word for word in words if "=" not in word], [word for word in words if "=" in word]
    given = {key.strip(): value.strip() for key, _, value in (pair.partition("=") for pair in pairs)}
    if name == "steps":
        if len(values) != 1 or pairs:
            raise UsageError(f"{text!r}: write steps:N, the number of steps that {{steps}} in the command stands for")
        return Point("reduced steps", f"{values[0]} steps", {"policy": "never"}, {"steps": values[0]})
    settings: dict[str, Any] = {key: value for key, value in given.items() if key in NAMES}
    own = {key: value for key, value in given.items() if key not in NAMES}
    settings |= _bare(text, name, values, own)
    if name in _MAIN:
        written = ",".join(f"{key}={value}" for key, value in own.items())
        settings["policy"] = f"{name}:{written}" if own else name
    elif own:
        raise UsageError(f"{text!r}: {', '.join(own)} is no setting of a run; `run --help` lists them")
    if settings.keys() == {"target_speedup"} and name == OURS:
        return target(number(settings["target_speedup"], text))
    return Point(name, rest or "defaults", settings)


def _bare(text: str, name: str, values: Sequence[str], own: dict[str, str]) -> dict[str, Any]:
    """The settings that values without a name stand for; a policy's own goes into `own`."""
    most = 2 if name == "scope-thresholds" else 1
    if len(values) not in (0, most):
        raise UsageError(
            f"{text!r}: {name} takes {most} bare value{'s' if most > 1 else ''}; name the others key=value"
        )
    if name == "scope-thresholds":
        if not values:
            return {"placement": "threshold"}
        low, high = (number(value, text) for value in values)
        return {"cache_threshold": low, "predict_threshold": high}
    if not values:
        return {}
    if name in _MAIN:
        own.setdefault(_MAIN[name], values[0])
        return {}
    return {"preset": values[0]} if values[0] in PRESETS else {"target_speedup": number(values[0], text)}
