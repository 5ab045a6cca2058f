"""scope_patch: SCOPE (arXiv 2604.02979) for autoregressive video diffusion, as a runtime patch of the host's own code.

    with scope_patch.patched(pipe, preset="fast") as run:
        pipe(...)
    run.report

Importing this package imports neither torch nor any host.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import NotApplied, ScopePatchError, UsageError

if TYPE_CHECKING:
    from .patch.attach import Handle, apply, patched
    from .tuning.functions import tune

__version__ = "0.1.0"
__all__ = ["Handle", "NotApplied", "ScopePatchError", "UsageError", "__version__", "apply", "patched", "tune"]


def __getattr__(name: str) -> Any:
    """Load the front door at its first use: it imports torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".tuning.functions" if name == "tune" else ".patch.attach", __name__), name)
