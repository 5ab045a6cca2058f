"""Who asked for what: every `apply`, `patched` or `run` is one scope, for one pipeline or model or for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, ref

from ..method.calibration import Calibration
from ..report.record import Run


@dataclass(eq=False)
class Scope:
    """One request.

    Attributes:
        run: its settings, and the record it fills.
        target: a weak reference to the pipeline or model it is for; None for every one of the architecture.
        tell: called whenever a generation has ended (the report is written then).
        calibration: what all its generations add to, where a profile was asked for.
    """

    run: Run
    target: ReferenceType[Any] | None = None
    tell: Any = None
    calibration: Calibration | None = None

    @classmethod
    def of(cls, run: Run, target: Any = None, tell: Any = None) -> Scope:
        calibration = Calibration() if run.settings.calibrate is not None else None
        return cls(run, None if target is None else ref(unwrap(target)), tell, calibration)

    def covers(self, pipeline: Any, model: Any) -> bool:
        """Whether a generation of this pipeline with this DiT falls under the scope."""
        return self.target is None or self.target() in (pipeline, model)


def unwrap(model: Any) -> Any:
    """The module inside `torch.compile`'s wrapper; anything else is itself."""
    return getattr(model, "_orig_mod", model)
