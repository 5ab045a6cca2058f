"""Other accelerators, under the names that scope_patch has for them as policies, and their points.

Each is aimed at speed-ups like ours: the policy finds the setting of its own that comes nearest. One that is not there,
or does not know a key, becomes a line "not available here", and the bench goes on.
"""

from __future__ import annotations

from .points import Point

RIVALS = {
    "teacache": "teacache:ckpt_dir=none",  # upstream's polynomials were fitted to other models
    "taylorseer": "taylorseer:max_order=1",
    "taylorseer, order 2": "taylorseer:max_order=2",
    "delta-dit": "delta-dit",
    "flowcache": "flowcache",
}
TARGETS = {
    "teacache": (1.5, 2, 3, 4, 5, 6),
    "taylorseer": (2, 3, 4, 5, 6),
    "taylorseer, order 2": (2, 3, 4, 5, 6),
    "delta-dit": (1.5, 2, 3, 4),
    "flowcache": (1.5, 2, 3),
}
"""What each can reach, and the first aim beyond it: from there on every aim is the same run."""
LEVELS = {"slow": 4.55, "fast": 5.27}
"""The paper's speed-ups on SkyReels-V2, to which our presets aim too."""


def sweep() -> list[Point]:
    """Every rival over its range."""
    return [_point(name, f"target {x:g}", x) for name, aims in TARGETS.items() for x in aims]


def levels() -> list[Point]:
    """Every rival that gets there at the paper's two."""
    able = [name for name, aims in TARGETS.items() if max(aims) > max(LEVELS.values())]
    return [_point(name, f"{level}: target {x}", x) for name in able for level, x in LEVELS.items()]


def _point(name: str, words: str, x: float) -> Point:
    return Point(name, words, {"policy": RIVALS[name], "target_speedup": x})
