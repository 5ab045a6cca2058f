"""What a run was asked to do: one frozen record, filled from flags, environment variables and defaults.

A setting is declared once, as a field of `Settings`: its type says how it is read, its `Option` what may be given and
on which commands. The command line, the variables, the dry run and the check of README's table derive from that.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import chain
from typing import Any

from .errors import UsageError, nearest, unknown
from .values import FrozenKeys, Limit, reader, switch

PREFIX = "SCOPE_PATCH_"
LAUNCHER = "_SCOPE_PATCH_LAUNCHER"
"""From the launcher to bootstrap/sitecustomize.py; the underscore keeps it out of the users' name space."""
JOB = "_SCOPE_PATCH_JOB"
"""ID:PID, the job that a process is of and the process that tells of it, if any as yet (report/job.py)."""
_OTHERS = ("SCOPE_PATCH_DRY_RUN", "SCOPE_PATCH_LPIPS", "SCOPE_PATCH_UPSTREAM")  # no settings, but ours all the same

Thresholds = tuple[float, float]
"""(cache threshold, predict threshold)."""
PRESETS: dict[str, float] = {"slow": 4.55, "fast": 5.27}
"""Speed-ups of the DiT's work: the paper's for SkyReels-V2. A registry file may have its own."""
NO_LIMIT: Thresholds = (0.0, 1e9)
"""What stands in for a threshold that was not given beside one that was: predict, wherever the horizon allows."""
DEFAULT_POLICY = "scope"
_WAYS = (("cache_threshold", "predict_threshold"), ("target_speedup",), ("preset",))
"""Three ways to say how much is to be skipped, the strongest first."""

_DECIDES, _RUNS = ("run", "plan"), ("run", "calibrate")
_FILE = "FILE"
_SCALE = re.compile(r"[CPLZ]|Ru?|S(0?\.\d+|1)u?")
"""A word of --scales."""
_SCALE_RULE = (
    "must be C or P (the residual of the blocks, repeated or extrapolated), L (the logits) or Z (no codes), or a list "
    "of these that ends with the last scale, with R (run) and S0.5 (run, half of the tokens in the middle blocks) "
    "among them, each with a u behind it where the unconditional rows shall not run"
)
K_MAX = 5
"""Skips in a row at the most, where thresholds decide: the paper's."""


@dataclass(frozen=True)
class Option:
    """How a setting is given on the command line, and what it may be.

    Attributes:
        takes: the metavar of its value (FILE is a path), or the names to choose from; "" for a switch.
        help: for `--help`, which adds the default.
        broken: value -> what it must be, as the rest of "NAME is VALUE, but ...", where it cannot be used; else "".
        commands: those that have the option.
        flag: the option's name, where it is not the setting's own.
    """

    takes: str | tuple[str, ...]
    help: str
    broken: Callable[[Any], str] = lambda value: ""
    commands: tuple[str, ...] = _DECIDES
    flag: str = ""


def _setting(default: Any, *option: Any, **more: Any) -> Any:
    return field(default=default, metadata={"option": Option(*option, **more)})


_optional = partial(_setting, None)


def _within(rule: str, least: float, most: float = math.inf) -> Callable[[Any], str]:
    return lambda value: "" if least <= value <= most else rule


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The resolved settings of a run. Construction raises UsageError when a value is out of range.

    What decides is `thresholds`, where one was given; else `target_speedup`; else that of the preset on the host.
    """

    target_speedup: float | None = _optional(
        "X", "do 1/X of the DiT's work", _within("must be 1 (nothing skipped) or more", 1)
    )
    preset: str = _setting("fast", tuple(PRESETS), "a speed-up of the paper's")
    profile: str | None = _optional(_FILE, "what `calibrate` measured, for placing recomputes")
    placement: str | None = _optional(
        ("error", "threshold"), "recompute where skipping would err most, or by thresholds on the signal"
    )
    cache_threshold: float | None = _optional(
        "X", "below it: Cache; wins over presets", _within("must not be negative; 0 never caches by it", 0)
    )
    predict_threshold: float | None = _optional(
        "X", "below it: Predict; above: Recompute", _within("must not be negative; 0 never predicts by it", 0)
    )
    max_skip: int | None = _optional(
        "N",
        f"at most N skipped steps in a row (default: where recomputes are placed, the bound says; else {K_MAX})",
        _within("must be 0 (never skip) or more", 0),
    )
    predictor: str = _setting("auto", "NAME", "how a velocity is extrapolated; `list` shows the others")
    predict_decay: float = _setting(
        0.75, "G", "what Predict leaves of the discrepancy", _within("must lie in [0, 1]; the paper uses 0.75", 0, 1)
    )
    signal: str | None = _optional(("timestep", "expected"), "what decisions are made from (default: the host's own)")
    per_chunk: bool = _setting(True, "", "MAGI-1: decide chunk by chunk (default), or for the whole window alike")
    replay: bool | None = _optional(
        "", "take skipped steps again once the next velocity is known (default: where a speed-up is aimed at)"
    )
    selective: bool | None = _optional(
        "", "leave out slots that have not started (default: where attention is block-causal)"
    )
    widths: int | None = _optional(
        "N",
        "forward at most N widths: a compiled model is compiled once a width",
        _within("must be 1 (all alike) or more; without it, all are kept", 1),
    )
    history_limit: str | None = _optional(
        "SIZE[:drop]", "velocities beyond it (500MB, 1.5GB) move to the CPU, oldest first, or with :drop are dropped"
    )
    frozen_keys: str = _setting(
        "auto",
        "auto|off|SIZE[:full]",
        "memory for keys and values of finished latent frames, which are then not forwarded any more (auto: a tenth of "
        "the device's); with :full also under full attention, where that is approximate",
    )
    policy: str = _setting(
        DEFAULT_POLICY, "NAME[:KEY=VALUE,...]", "scope, never (patched, but all is recomputed), or a rival; see `list`"
    )
    level: str | None = _optional(
        ("velocity", "residual"), "skip the whole forward, or only its blocks (default: the policy's own)"
    )
    scales: str | None = _optional(
        "RULE",
        "Infinity: what a skipped scale is given (C, P, L, Z), or what is done at each of the last scales (R,S0.5,Z)",
        lambda value: "" if all(_SCALE.fullmatch(word.strip()) for word in value.split(",")) else _SCALE_RULE,
    )
    verify: int = _setting(
        0,
        "N",
        "run every N-th skipped step all the same, and say how much its prediction erred",
        _within("must be 0 (never) or more: every N-th skipped step is run", 0),
    )
    verify_bound: float = _setting(
        0.2,
        "X",
        "with --verify: skip less from a relative error above X on",
        _within("a relative error is not negative; try 0.2", 0),
    )
    calibrate: str | None = _optional(
        _FILE, "where the profile goes (default: scope_profile.json)", commands=("calibrate",), flag="--profile"
    )
    report: str | None = _optional(_FILE, "write what was skipped, as JSON", commands=_RUNS)
    registry: str | None = _optional(
        _FILE, "one more host, as described in docs/patching.md", commands=(*_RUNS, "list", "doctor")
    )
    strict: bool = _setting(False, "", "fail instead of running unpatched", commands=_RUNS)
    rank_timeout: float = _setting(
        120.0,
        "SECONDS",
        "how long ranks that share a model wait for one another",
        lambda value: "" if value > 0 else "must be more than 0 seconds",
        _RUNS,
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            name, value, option = setting.name, getattr(self, setting.name), OPTIONS[setting.name]
            if value is None and setting.default is None:
                continue
            value = reader(setting.type)(value, name)
            if (name, value) == ("signal", "latent"):
                raise UsageError(
                    "signal 'latent' is gone, because every decision is made before the first forward; leave it out"
                )
            if isinstance(option.takes, tuple) and value not in option.takes:
                raise unknown(name, value, option.takes)
            if rule := option.broken(value):
                raise UsageError(f"{name} is {value}, but {rule}")
            object.__setattr__(self, name, value)  # of its type, whoever gave it
        thresholds = self.thresholds
        if thresholds is not None and thresholds[0] > thresholds[1]:
            raise UsageError(
                f"cache_threshold {thresholds[0]} is above predict_threshold {thresholds[1]}, so Predict could never "
                "be chosen; lower --cache-threshold or raise --predict-threshold"
            )
        if self.target_speedup is not None and thresholds is not None:
            raise UsageError(
                "a target speed-up and thresholds were both given, and each alone says what is skipped; leave out "
                "--target-speedup, or --cache-threshold and --predict-threshold"
            )
        if self.calibrate is not None and self.policy_name != "never":
            raise UsageError(f"calibrating runs the host unaccelerated: --policy {self.policy} has no place there")
        _ = self.policy_options, self.limit, self.frozen  # what cannot be read is said now

    @property
    def fingerprint(self) -> str:
        """Eight letters of all that decisions are made from: the same on ranks that decide alike."""
        names = [name for name, option in OPTIONS.items() if "plan" in option.commands and name not in FILES]
        return hashlib.sha256(repr([(name, getattr(self, name)) for name in names]).encode()).hexdigest()[:8]

    @property
    def policy_name(self) -> str:
        """The policy without the settings of its own that may stand behind its name."""
        return self.policy.partition(":")[0]

    @property
    def policy_options(self) -> dict[str, str]:
        """`NAME:key=value,key=value` -> the pairs. Raises UsageError where they are not of this form."""
        pairs = [pair.partition("=") for pair in self.policy.partition(":")[2].split(",") if pair.strip()]
        for key, equals, value in pairs:
            if not (key.strip() and equals and value.strip()):
                raise UsageError(f"--policy {self.policy}: {key!r} is no setting; write NAME:key=value,key=value")
        return {key.strip(): value.strip() for key, _, value in pairs}

    @property
    def limit(self) -> Limit | None:
        """Of the memory that velocities or residuals may take. Raises UsageError where it is none."""
        return None if self.history_limit is None else Limit.parse(self.history_limit)

    @property
    def frozen(self) -> FrozenKeys | None:
        """What keys and values of finished latent frames may take. Raises UsageError where it is none of these."""
        return FrozenKeys.parse(self.frozen_keys)

    @property
    def thresholds(self) -> Thresholds | None:
        """(cache, predict) where at least one of them was given."""
        cache, predict = self.cache_threshold, self.predict_threshold
        if cache is None and predict is None:
            return None
        return NO_LIMIT[0] if cache is None else cache, NO_LIMIT[1] if predict is None else predict

    def target(self, presets: Mapping[str, float]) -> float:
        """The speed-up of the DiT's work to be aimed at on a host with these presets, where no threshold is given."""
        return presets[self.preset] if self.target_speedup is None else self.target_speedup

    @classmethod
    def resolve(cls, flags: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
        """Settings from `flags` (keyword arguments or options; None means not given), then `environ`, then defaults.

        `--preset slow` wins over SCOPE_PATCH_CACHE_THRESHOLD: a stronger source says alone how much is skipped.
        Warns once about unknown SCOPE_PATCH_* names, unless a launcher above this process has done so.
        Raises UsageError: unknown name, value of the wrong kind or out of range. Whether somebody provides `policy` and
        `predictor` is asked elsewhere.
        """
        return resolve_with_origins(flags, environ)[0]

    def to_environ(self) -> dict[str, str]:
        """The variables from which a child process resolves these settings: `resolve({}, s.to_environ()) == s`."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {variable(name): str(int(v)) if isinstance(v, bool) else str(v) for name, v in given.items()}


OPTIONS: dict[str, Option] = {setting.name: setting.metadata["option"] for setting in fields(Settings)}
NAMES = tuple(OPTIONS)
FILES = tuple(name for name, option in OPTIONS.items() if option.takes == _FILE)


def variable(name: str) -> str:
    """The environment variable of a setting: `cache_threshold` -> `SCOPE_PATCH_CACHE_THRESHOLD`."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """The option of a setting: `cache_threshold` -> `--cache-threshold`."""
    return OPTIONS[name].flag or "--" + name.replace("_", "-")


def switched_off(environ: Mapping[str, str]) -> bool:
    """True under `SCOPE_PATCH=0`. Raises UsageError when the value is neither an on nor an off."""
    return not switch(environ.get("SCOPE_PATCH") or True, "SCOPE_PATCH")


def resolve_with_origins(flags: Mapping[str, object], environ: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """As `Settings.resolve`, and where each value came from: a flag, a variable or the default."""
    for name in flags:
        if name not in NAMES:
            raise unknown("setting", name, NAMES)
    if LAUNCHER not in environ:
        known = {*map(variable, NAMES), *_OTHERS}
        for name in sorted(name for name in environ if name.startswith(PREFIX) and name not in known):
            logging.getLogger("scope_patch").warning(
                "environment variable %s is not known and is ignored%s", name, nearest(name, known)
            )
    in_environment = {name: environ[variable(name)] for name in NAMES if environ.get(variable(name))}
    in_flags = {name: value for name, value in flags.items() if value is not None}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(NAMES, "default")
    # Weakest source first, so that what stands at the end is the strongest.
    for given, kind, named in ((in_environment, "environment", variable), (in_flags, "flag", flag)):
        others = [way for way in _WAYS if given.keys().isdisjoint(way)]
        if len(others) < len(_WAYS):  # what it says of how much to skip stands in place of what weaker ones said
            for name in chain.from_iterable(others):
                values.pop(name, None)
                origins[name] = "default"
        for name, raw in given.items():
            origins[name] = f"{kind} {named(name)}"
            values[name] = reader(Settings.__annotations__[name])(raw, origins[name])
            if name in FILES:
                values[name] = os.path.abspath(values[name])  # the host may change directory before it is opened
    return Settings(**values), origins
