"""What a run was asked to do: one frozen record, filled from flags, environment variables and defaults."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields

from .environment import LAUNCHER, integer, number, switch, text, unknown, unknown_names, variable
from .environment import switched_off as switched_off  # beside the settings it switches off
from .errors import UsageError

Thresholds = tuple[float, float]
"""(cache threshold, predict threshold)."""
PRESETS: dict[str, Thresholds] = {"slow": (0.12, 0.30), "fast": (0.18, 0.42)}
"""For SkyReels-V2, whose "fast" is the paper's; a registry file may have its own."""
DEFAULT_PRESET = "fast"
SIGNALS = ("timestep", "latent", "expected")
THRESHOLDS = ("cache_threshold", "predict_threshold")

_READERS: dict[str, Callable[[object, str], object]] = {
    "policy": text,
    "preset": text,
    "cache_threshold": number,
    "predict_threshold": number,
    "max_skip": integer,
    "predict_decay": number,
    "predictor": text,
    "selective": switch,
    "per_chunk": switch,
    "signal": text,
    "report": text,
    "strict": switch,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The resolved settings of a run. Construction raises UsageError when a value is out of range.

    A threshold that is None is left to the preset, whose numbers depend on the host (`for_host`).
    """

    cache_threshold: float | None = None
    predict_threshold: float | None = None
    policy: str = "scope"
    preset: str = DEFAULT_PRESET
    max_skip: int = 5
    predict_decay: float = 0.75
    predictor: str = "auto"
    selective: bool = True
    per_chunk: bool = True
    signal: str | None = None
    report: str | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        for name in THRESHOLDS:
            given = getattr(self, name)
            if given is not None and number(given, name) < 0:
                raise UsageError(f"{name} is {given}, but must not be negative; 0 never {name.split('_')[0]}s by it")
        _known("preset", self.preset, PRESETS)
        self.for_host(PRESETS)
        if integer(self.max_skip, "max_skip") < 0:
            raise UsageError(f"max_skip is {self.max_skip}, but must be 0 (never skip) or more")
        if not 0 <= number(self.predict_decay, "predict_decay") <= 1:
            raise UsageError(f"predict_decay is {self.predict_decay}, but must lie in [0, 1]; the paper uses 0.75")
        _known("signal", self.signal, SIGNALS)  # None: the host's own

    def for_host(self, presets: Mapping[str, Thresholds]) -> Thresholds:
        """The thresholds in force on a host that has these presets.

        Raises UsageError where Predict could never be chosen.
        """
        cache, predict = presets[self.preset]
        cache = cache if self.cache_threshold is None else self.cache_threshold
        predict = predict if self.predict_threshold is None else self.predict_threshold
        if cache > predict:
            raise UsageError(
                f"cache_threshold {cache} is above predict_threshold {predict}, so Predict could never be chosen; "
                "lower --cache-threshold or raise --predict-threshold"
            )
        return cache, predict

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

        A preset outranks the thresholds of a weaker source: `--preset slow` wins over SCOPE_PATCH_CACHE_THRESHOLD.
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
    origins.update(dict.fromkeys(THRESHOLDS, f"preset {DEFAULT_PRESET}"))
    in_environment = {name: environ[variable(name)] for name in NAMES if environ.get(variable(name))}
    _fill(values, origins, in_environment, lambda name: f"environment {variable(name)}")
    given = {name: value for name, value in flags.items() if value is not None}
    _fill(values, origins, given, lambda name: "flag --" + name.replace("_", "-"))
    if values.get("report") is not None:
        values["report"] = os.path.abspath(str(values["report"]))  # the host may change directory before it is written
    settings = Settings(**values)  # type: ignore[arg-type]  # each value came out of its reader above
    _known("policy", settings.policy, policies)
    _known("predictor", settings.predictor, predictors)
    return settings, origins


def _fill(
    values: dict[str, object], origins: dict[str, str], given: Mapping[str, object], origin: Callable[[str], str]
) -> None:
    """Lay one source over what is there; its preset first, so that its own thresholds win over its preset."""
    if "preset" in given:
        preset = text(given["preset"], origin("preset"))
        _known("preset", preset, PRESETS)
        values.update(dict.fromkeys(THRESHOLDS))
        origins.update(dict.fromkeys(THRESHOLDS, f"preset {preset}"))
    for name, raw in given.items():
        values[name] = _READERS[name](raw, origin(name))
        origins[name] = origin(name)


def _known(kind: str, name: str | None, known: Collection[str] | None) -> None:
    if name is not None and known is not None and name not in known:
        raise unknown(kind, name, known)
