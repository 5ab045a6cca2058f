"""Which generation may put something of ours into a model: one at a time, in whatever thread."""

from __future__ import annotations

import threading
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

_lock = threading.Lock()
_claims: WeakKeyDictionary[Any, ReferenceType[Any]] = WeakKeyDictionary()
"""Model -> who has it. An owner that is gone has let it go."""


def claim(model: Any, owner: Any) -> bool:
    """Take a model, unless another owner has it. Returns whether it is the owner's now."""
    with _lock:
        found = _claims.get(model)
        holder = None if found is None else found()
        if holder is None:
            _claims[model] = ref(owner)
        return holder in (None, owner)


def release(model: Any, owner: Any) -> None:
    """Let it go, if it is the owner's."""
    with _lock:
        found = _claims.get(model)
        if found is not None and found() is owner:
            del _claims[model]
