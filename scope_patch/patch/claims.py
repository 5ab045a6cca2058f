"""Which generation may put something of ours into a model: one at a time, in whatever thread."""

from __future__ import annotations

import threading
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from .generation import Generation

_lock = threading.Lock()
_claims: WeakKeyDictionary[Any, ReferenceType[Generation]] = WeakKeyDictionary()
"""Model -> who has it. A generation that is gone, or was switched off, has let it go."""


def claim(model: Any, owner: Generation) -> bool:
    """Take a model, unless another generation has it. Returns whether it is the owner's now."""
    with _lock:
        found = _claims.get(model)
        holder = None if found is None else found()
        if holder is None or (holder.off and not holder.inside):
            _claims[model] = ref(owner)
            return True
        return holder is owner


def release(model: Any, owner: Generation) -> None:
    """Let it go, if it is the owner's."""
    with _lock:
        found = _claims.get(model)
        if found is not None and found() is owner:
            del _claims[model]
