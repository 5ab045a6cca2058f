"""What presets and settings mean on a host: the same for a run and for a plan without one."""

from __future__ import annotations

from ..method.policies.traits import Size
from ..method.resolved import HostDefaults
from .architecture import Architecture

NO_WIDTHS = "--widths has no say here: the host itself says which chunks are forwarded, and all of them are"


def terms(architecture: Architecture, size: Size) -> HostDefaults:
    """The defaults of an architecture, for a model of that size."""
    chunked = architecture.stepwise is not None
    return HostDefaults(
        architecture.presets,
        architecture.placement,
        architecture.preset_limit,
        per_slot=chunked,
        hold_if_short=chunked,
        size=size,
        signal=architecture.signal,
    )
