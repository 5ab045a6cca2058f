"""What presets and settings mean on a host: the same for a run and for a plan without one."""

from __future__ import annotations

from ..method.asked import Terms
from ..method.plan import EVERYTHING
from ..method.policies.traits import Size
from ..settings import Settings
from .architecture import Architecture

NO_WIDTHS = "--widths has no say here: the host itself says which chunks are forwarded, and all of them are"


def terms(architecture: Architecture, settings: Settings, size: Size | None = None) -> Terms:
    """The terms of an architecture under these settings, for a model of that size."""
    own = settings.signal in (None, architecture.signal)  # the limit of presets is in units of that signal
    chunked = architecture.stepwise is not None
    return Terms(
        architecture.presets,
        architecture.placement,
        architecture.preset_limit if own else EVERYTHING,
        each=chunked and settings.per_chunk,
        patient=chunked,
        size=size or Size(),
    )
