"""A limit of memory as people write it: `500MB`, `1.5GB`, `4096`; `:drop` behind it: nothing shall be moved."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import UsageError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*(:drop)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """Attributes: size, bytes; drop, what goes beyond it is dropped, never moved."""

    size: int
    drop: bool = False

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Raises UsageError for anything that is no size."""
        found = FORM.fullmatch(text)
        unit = None if found is None else UNITS.get(found[2].upper())
        if found is None or unit is None:
            raise UsageError(
                f"history_limit is {text!r}, which is no size; write one as 500MB, 1.5GB or a number of bytes, or as "
                "500MB:drop where older velocities shall be dropped, not moved to the CPU"
            )
        return cls(int(float(found[1]) * unit), found[3] is not None)
