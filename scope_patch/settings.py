"""What a run was asked to do: one frozen record, filled from flags, environment variables and defaults."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields

from .environment import LAUNCHER, integer, number, switch, text, unknown, unknown_names, variable
from .environment import switched_off as switched_off  # beside the settings it switches off
from .errors import UsageError
from .limit import Limit

Thresholds = tuple[float, float]
"""(cache threshold, predict threshold)."""
PRESETS: dict[str, float] = {"slow": 4.55, "fast": 5.27}
"""Speed-ups of the DiT's work: the paper's for SkyReels-V2. A registry file may have its own."""
NO_LIMIT: Thresholds = (0.0, 1e9)
"""What stands in for a threshold that was not given beside one that was: predict, wherever the horizon allows."""
DEFAULT_PRESET = "fast"
DEFAULT_POLICY = "scope"
PLACEMENTS = ("error", "threshold")
SIGNALS = ("timestep", "expected")
LEVELS = ("velocity", "residual")
THRESHOLDS = ("cache_threshold", "predict_threshold")
FILES = ("profile", "calibrate", "report", "registry")
VERIFY_BOUND = 0.2
"""The relative error of a prediction from which on less is skipped (docs/verify.md)."""
WAYS = (THRESHOLDS, ("target_speedup",), ("preset",))
"""Three ways to say how much is to be skipped, the strongest first."""

_READERS: dict[str, Callable[[object, str], object]] = {
    "policy": text,
    "level": text,
    "preset": text,
    "cache_threshold": number,
    "predict_threshold": number,
    "target_speedup": number,
    "max_skip": integer,
    "predict_decay": number,
    "predictor": text,
    "selective": switch,
    "widths": integer,
    "per_chunk": switch,
    "signal": text,
    "placement": text,
    "verify": integer,
    "verify_bound": number,
    "history_limit": text,
    "profile": text,
    "calibrate": text,
    "report": text,
    "rank_timeout": number,
    "registry": text,
    "strict": switch,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The resolved settings of a run. Construction raises UsageError when a value is out of range.

    What decides is `thresholds`, where one was given; else `target_speedup`; else that of the preset on the host.
    """

    cache_threshold: float | None = None
    predict_threshold: float | None = None
    policy: str = DEFAULT_POLICY
    level: str | None = None
    preset: str = DEFAULT_PRESET
    target_speedup: float | None = None
    max_skip: int = 5
    predict_decay: float = 0.75
    predictor: str = "auto"
    selective: bool = True
    widths: int | None = None
    per_chunk: bool = True
    signal: str | None = None
    placement: str | None = None
    verify: int = 0
    verify_bound: float = VERIFY_BOUND
    history_limit: str | None = None
    profile: str | None = None
    calibrate: str | None = None
    report: str | None = None
    rank_timeout: float = 120.0
    registry: str | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        for name in THRESHOLDS:
            given = getattr(self, name)
            if given is not None and number(given, name) < 0:
                raise UsageError(f"{name} is {given}, but must not be negative; 0 never {name.split('_')[0]}s by it")
        _known("preset", self.preset, PRESETS)
        thresholds = self.thresholds
        if thresholds is not None and thresholds[0] > thresholds[1]:
            raise UsageError(
                f"cache_threshold {thresholds[0]} is above predict_threshold {thresholds[1]}, so Predict could never "
                "be chosen; lower --cache-threshold or raise --predict-threshold"
            )
        if self.target_speedup is not None and number(self.target_speedup, "target_speedup") < 1:
            raise UsageError(f"target_speedup is {self.target_speedup}, but must be 1 (nothing skipped) or more")
        if self.target_speedup is not None and thresholds is not None:
            raise UsageError(
                "a target speed-up and thresholds were both given, and each alone says what is skipped; leave out "
                "--target-speedup, or --cache-threshold and --predict-threshold"
            )
        if self.calibrate is not None and self.policy_name != "never":
            raise UsageError(f"calibrating runs the host unaccelerated: --policy {self.policy} has no place there")
        if integer(self.max_skip, "max_skip") < 0:
            raise UsageError(f"max_skip is {self.max_skip}, but must be 0 (never skip) or more")
        if not 0 <= number(self.predict_decay, "predict_decay") <= 1:
            raise UsageError(f"predict_decay is {self.predict_decay}, but must lie in [0, 1]; the paper uses 0.75")
        if not number(self.rank_timeout, "rank_timeout") > 0:
            raise UsageError(f"rank_timeout is {self.rank_timeout}, but must be more than 0 seconds")
        if self.widths is not None and integer(self.widths, "widths") < 1:
            raise UsageError(f"widths is {self.widths}, but must be 1 (all alike) or more; without it, all are kept")
        if integer(self.verify, "verify") < 0:
            raise UsageError(f"verify is {self.verify}, but must be 0 (never) or more: every N-th skipped step is run")
        if number(self.verify_bound, "verify_bound") < 0:
            raise UsageError(f"verify_bound is {self.verify_bound}, but a relative error is not negative; try 0.2")
        _known("signal", self.signal, SIGNALS)  # None: the host's own
        _known("placement", self.placement, PLACEMENTS)
        _known("level", self.level, LEVELS)  # None: the policy's own
        _ = self.policy_options, self.limit

    @property
    def fingerprint(self) -> str:
        """Eight letters of all that decisions are made from: the same on ranks that decide alike."""
        beside = (*FILES, "rank_timeout", "strict")
        decisive = {name: value for name, value in asdict(self).items() if name not in beside}
        return hashlib.sha256(repr(decisive).encode()).hexdigest()[:8]

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
    def thresholds(self) -> Thresholds | None:
        """(cache, predict) where at least one of them was given."""
        if self.cache_threshold is None and self.predict_threshold is None:
            return None
        cache, predict = self.cache_threshold, self.predict_threshold
        return NO_LIMIT[0] if cache is None else cache, NO_LIMIT[1] if predict is None else predict

    def target(self, presets: Mapping[str, float]) -> float:
        """The speed-up of the DiT's work to be aimed at on a host with these presets, where no threshold is given."""
        return presets[self.preset] if self.target_speedup is None else self.target_speedup

    @classmethod
    def resolve(
        cls,
        flags: Mapping[str, object],
        environ: Mapping[str, str],
        *,
        policies: Collection[str] | None = None,
        predictors: Collection[str] | None = None,
    ) -> Settings:
        """Settings from `flags` (keyword arguments or options; None means not given), then `environ`, then defaults.

        `--preset slow` wins over SCOPE_PATCH_CACHE_THRESHOLD: a stronger source says alone how much is skipped.
        Warns once about unknown SCOPE_PATCH_* names, unless a launcher above this process has done so.
        Raises UsageError: unknown name, value of the wrong kind or out of range; for `policy` and `predictor` only
        where the known names are passed in.
        """
        return resolve_with_origins(flags, environ, policies=policies, predictors=predictors)[0]

    def to_environ(self) -> dict[str, str]:
        """The variables from which a child process resolves these settings: `resolve({}, s.to_environ()) == s`."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {variable(name): str(int(v)) if isinstance(v, bool) else str(v) for name, v in given.items()}


NAMES = tuple(field.name for field in fields(Settings))


def resolve_with_origins(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    policies: Collection[str] | None = None,
    predictors: Collection[str] | None = None,
) -> tuple[Settings, dict[str, str]]:
    """As `Settings.resolve`, and where each value came from: a flag, a variable, a preset or the default."""
    for name in flags:
        if name not in NAMES:
            raise unknown("setting", name, NAMES)
    if LAUNCHER not in environ:
        for sentence in unknown_names(environ, NAMES):
            logging.getLogger("scope_patch").warning("%s", sentence)
    values: dict[str, object] = {}
    origins = dict.fromkeys(NAMES, "default")
    # Weakest source first, so that what stands at the end is the strongest.
    in_environment = {name: environ[variable(name)] for name in NAMES if environ.get(variable(name))}
    _fill(values, origins, in_environment, lambda name: f"environment {variable(name)}")
    given = {name: value for name, value in flags.items() if value is not None}
    _fill(values, origins, given, lambda name: "flag --" + name.replace("_", "-"))
    for name in FILES:
        if values.get(name) is not None:
            values[name] = os.path.abspath(str(values[name]))  # the host may change directory before it is opened
    settings = Settings(**values)  # type: ignore[arg-type]  # each value came out of its reader above
    _known("policy", settings.policy_name, policies)
    _known("predictor", settings.predictor, predictors)
    return settings, origins


def _fill(
    values: dict[str, object], origins: dict[str, str], given: Mapping[str, object], origin: Callable[[str], str]
) -> None:
    """Lay one source over what is there. What it says of how much to skip stands in place of what weaker ones said."""
    if any(name in given for way in WAYS for name in way):
        for name in (name for way in WAYS if not any(name in given for name in way) for name in way):
            values.pop(name, None)
            origins[name] = "default"
    for name, raw in given.items():
        values[name] = _READERS[name](raw, origin(name))
        origins[name] = origin(name)


def _known(kind: str, name: str | None, known: Collection[str] | None) -> None:
    if name is not None and known is not None and name not in known:
        raise unknown(kind, name, known)
