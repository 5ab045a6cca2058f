"""Reports made by hand, for whatever reads them."""

from __future__ import annotations

import copy

SEGMENT = {
    "iterations": 5,
    "modes": "RPRCR",
    "reasons": ["growth", "threshold", "growth", "threshold", "horizon"],
    "intervals": [[0, 2], [0, 2], [0, 4], [0, 4], [0, 4]],
    "slots_baseline": 20,
    "slots_computed": 10,
    "selective": True,
    "frames": 4,
    "active": [[0, 2], [0, 2], [0, 4], [2, 4], [2, 4]],
}
VERIFIED = {
    **SEGMENT,
    "modes": "RRRRR",
    "reasons": ["growth", "verify", "growth", "plan", "verify"],
    "verified": [
        {"iteration": 1, "expected": 0.0012, "error": 0.025, "tightened": None},
        {"iteration": 3, "expected": 0.1, "error": None, "tightened": 0},
    ],
}
COLUMNS = ("RR..", "PP..", "RRRR", "--CC", "++RR")
CHUNKS = {
    "iterations": 3,
    "modes": "RRR",
    "reasons": ["growth", "threshold", "forced"],
    "intervals": [[0, 2], [0, 2], [0, 4]],
    "frames": 6,
    "active": [[0, 2], [0, 4], [2, 4]],
    "chunk": 2,
    "slots": ["R", "RP", "FR"],
}
CHUNK_COLUMNS = ("RR..--", "RRPP--", "FFRR--")


def report(*segments, **generation):
    """A report of one generation; without segments named, of one."""
    more = {"omitted": generation.pop("omitted")} if "omitted" in generation else {}
    return several({"segments": list(segments) or [SEGMENT], **generation}, **more)


def several(*generations, **more):
    """A report of several generations."""
    settings = {"policy": "scope", "preset": "fast", "max_skip": 5, "report": None}
    made = {"schema": 2, "host": "a host", "status": "applied", "reasons": [], "settings": settings, "signal": "s"}
    made["generations"] = [
        {
            "status": "applied",
            "reasons": [],
            "forwards": {"baseline": 5, "run": 3, "skipped": 2},
            "seconds": {"total": 2.0, "dit": 1.5, "overhead": 0.25},
            "history_bytes_peak": 1000,
            "signal": "s",
            "planned": [{"target": 2.0, "modes": "RPRCR", "work": 5, "baseline": 10}],
            "finished": True,
            "error": None,
            **generation,
        }
        for generation in generations
    ]
    return copy.deepcopy({**made, **more})
