"""The suites: which points each has. Adding a line here adds a line to a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scope_patch.tuning.points import OURS, Point

from .demo import CALIBRATED

NEVER = {"policy": "never"}  # the host as it is, timed

PREDICT = {"cache_threshold": 0.0, "predict_threshold": 1e9}  # Predict wherever it may: equal forwards for all
HOLD = {**PREDICT, "predictor": "hold"}
VARIANTS = {OURS: {}, "scope, thresholds": {"placement": "threshold"}, "scope, calibrated": {"profile": CALIBRATED}}
REDUCED = {2: (27, 2), 3: (15, 2), 4: (13, 1), 5: (10, 1), 6: (8, 1)}
"""Aim -> (steps, ar_step) of an unpatched run: steps + 4 ar_step iterations in place of 50 + 4 * 5 = 70."""
LENGTHS = (97, 177, 257, 417, 577, 737)
KEPT_AR_STEP = (25, 15, 5)
"""Steps with ar_step 5, whose 20 iterations of delay no saving of steps can touch."""


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
PAPER = {"slow": 4.55, "fast": 5.27}
"""The paper's speed-ups on SkyReels-V2, to which our presets aim too."""


def rivals() -> list[Point]:
    """Every rival over its range."""
    return [rival(name, f"target {x:g}", x) for name, aims in TARGETS.items() for x in aims]


def rivals_slow_and_fast() -> list[Point]:
    """Every rival that gets there at the paper's two."""
    able = [name for name, aims in TARGETS.items() if max(aims) > max(PAPER.values())]
    return [rival(name, f"{level}: target {x}", x) for name in able for level, x in PAPER.items()]


def rival(name: str, words: str, x: float) -> Point:
    return Point(name, words, {"policy": RIVALS[name], "target_speedup": x})


@dataclass(frozen=True, eq=False)
class Suite:
    """Points, with how many prompts and seeds are filmed unless asked otherwise.

    Attributes: figure, whether it has one; axis, what the points' `x` is, "" for the plane of speed and quality.
    """

    about: str
    points: tuple[Point, ...]
    prompts: int = 8
    seeds: int = 1
    figure: bool = False
    axis: str = ""
    notes: str = ""


def reduced() -> list[Point]:
    return [
        Point("reduced steps", f"{steps} steps, ar_step {lag}", NEVER, {"num_inference_steps": steps, "ar_step": lag})
        for steps, lag in REDUCED.values()
    ]


def ours() -> list[Point]:
    targets = {OURS: (1.5, 2, 3, 4, 5, 6, 6.4, 8), **dict.fromkeys(list(VARIANTS)[1:], (2, 3, 4, 5, 6))}
    return [
        Point(name, f"target {x:g}", {"target_speedup": x, **more})
        for name, more in VARIANTS.items()
        for x in targets[name]
    ]


def thresholds() -> list[Point]:
    pairs = [(0.0, 0.02), (0.0, 0.03), (0.0, 0.04), (0.0, 0.06), (0.0, 0.08)]
    pairs += [(0.01, 0.03), (0.02, 0.04), (0.02, 0.06), (0.02, 0.08), (0.04, 0.06), (0.04, 0.08), (0.08, 0.16)]
    return [
        Point("scope, thresholds", f"cache {low}, predict {high}", {"cache_threshold": low, "predict_threshold": high})
        for low, high in pairs
    ]


def k_max() -> list[Point]:
    series = {"scope": {"target_speedup": 6.0}, "predict always": PREDICT, "hold always": HOLD}
    return [
        Point(name, f"K {most}", {**settings, "max_skip": most}, x=most)
        for name, settings in series.items()
        for most in range(1, 9)
    ]


def length() -> list[Point]:
    series = {"preset slow": {"preset": "slow"}, "preset fast": {"preset": "fast"}, "target 3": {"target_speedup": 3}}
    return [
        Point(name, f"{frames} frames", settings, video={"num_frames": frames}, x=frames)
        for name, settings in series.items()
        for frames in LENGTHS
    ]


def predictors() -> list[Point]:
    names = ("hold", "taylor1", "taylor2", "momentum", "auto")
    cases = {f"at most {most} skips": {**PREDICT, "max_skip": most} for most in (1, 2, 3, 5)}
    cases |= {f"target {x}": {"target_speedup": x} for x in (3, 4)}
    return [Point(name, case, {**settings, "predictor": name}) for case, settings in cases.items() for name in names]


def defaults(host: str) -> list[Point]:
    """Scope with one default changed, at equal work."""
    changed: dict[str, dict[str, Any]] = {
        OURS: {},
        **{f"at most {most} skips": {"max_skip": most} for most in (5, 8)},
        "not taken again": {"replay": False},
        **{f"predictor {name}": {"predictor": name} for name in ("hold", "taylor1", "taylor2")},
    }
    return [
        Point(name, f"target {x}", {**more, "target_speedup": x}, host=host)
        for x in (3, 5)
        for name, more in changed.items()
    ]


def all_methods(host: str, video: dict[str, int], fewer: list[dict[str, int]]) -> list[Point]:
    """Every method from 2 to 6 times, on another host or for other videos than `main`; `fewer`: reduced steps."""
    methods = {
        OURS: ({}, (2, 3, 4, 5, 6)),
        "scope, thresholds": (VARIANTS["scope, thresholds"], (2, 3, 4, 5, 6)),
        **{name: ({"policy": RIVALS[name]}, tuple(x for x in aims if x >= 2)) for name, aims in TARGETS.items()},
    }
    points = [
        Point(name, f"target {x:g}", {**settings, "target_speedup": x}, video=video, host=host)
        for name, (settings, aims) in methods.items()
        for x in aims
    ]
    for steps in fewer:
        words = ", ".join(f"{value} {STEP_WORDS[key]}" for key, value in steps.items())
        points.append(Point("reduced steps", words, NEVER, steps, video, host))
    return points


def magi(host: str) -> list[Point]:
    """Every method that the official MAGI-1 loop takes; thresholds chunk by chunk, and for the whole window."""
    fewer = [{"steps": steps} for steps in (32, 20, 16, 8)]
    window = {"placement": "threshold", "per_chunk": False}
    return all_methods(host, {}, fewer) + [
        Point("scope, thresholds, a window", f"target {x}", {**window, "target_speedup": x}, host=host)
        for x in (2, 3, 4, 5, 6)
    ]


STEP_WORDS = {"num_inference_steps": "steps", "steps": "steps", "ar_step": "ar_step"}
STAIRS = [{"num_inference_steps": steps, "ar_step": lag} for steps, lag in REDUCED.values()]
IN_STEP = [{"num_inference_steps": steps} for steps in (25, 16, 12, 10, 8)]


def selective(*hosts: str) -> list[Point]:
    cases = {"nothing skipped": {"cache_threshold": 0.0, "predict_threshold": 0.0}}
    cases |= {f"target {x}": {"target_speedup": x} for x in (2, 3, 4)}
    return [
        Point("selective" if on else "whole window", case, {**settings, "selective": on}, host=host)
        for host in hosts
        for case, settings in cases.items()
        for on in (True, False)
    ]


def steps() -> list[Point]:
    kept = [
        Point("reduced steps, ar_step 5", f"{n} steps", NEVER, {"num_inference_steps": n, "ar_step": 5})
        for n in KEPT_AR_STEP
    ]
    narrow = [
        Point("reduced steps, selective", p.name, {"cache_threshold": 0.0, "predict_threshold": 0.0}, p.instead)
        for p in reduced()
    ]
    return [*(p for p in ours() if p.method == OURS), *reduced(), *kept, *narrow]


def slow_and_fast() -> list[Point]:
    own = [
        Point(method, f"{level}: --preset {level}", {"preset": level, **more})
        for method, more in VARIANTS.items()
        for level in ("slow", "fast")
    ]
    cut = [
        Point(
            "reduced steps", f"{level}: {steps} steps, ar_step 1", NEVER, {"num_inference_steps": steps, "ar_step": 1}
        )
        for level, steps in (("slow", 11), ("fast", 9))
    ]
    return [*own, *cut, *rivals_slow_and_fast()]


def levels() -> list[Point]:
    return [
        Point(f"scope, {level}", f"target {x}", {"target_speedup": x, "level": level})
        for level in ("velocity", "residual")
        for x in (2, 3, 4, 5, 6)
    ]


STEPS_NOTE = (
    "Reduced steps: the unpatched host with fewer steps. With ar_step left at 5 the delay between blocks alone is 20 "
    "of the 70 iterations, so ar_step is cut in about the same proportion as the steps; a point's name says to what "
    "(at 2 and 3 times less: the best of three pairs on four of the prompts)."
)
RANGE_NOTE = (
    " delta-dit and flowcache are not in Table 1: their last points are the most that their own rules allow, and the "
    "paper's speed-ups are beyond them."
)
MAGI_NOTE = "Reduced steps: a quarter of them each stage, and not 12, which upstream takes for a distilled model."
SUITES = {
    "main": Suite(
        "Every method over its range: speed against quality.",
        (*ours(), *reduced(), *rivals(), *slow_and_fast()),
        prompts=16, seeds=2, figure=True, notes=STEPS_NOTE + RANGE_NOTE,
    ),
    "thresholds": Suite("Table 2 of the paper: the two thresholds.", tuple(thresholds())),
    "k-max": Suite(
        "Figure 7 of the paper: the most skips in a row, K.", tuple(k_max()), figure=True, axis="most skips, K"
    ),
    "length": Suite(
        "Figure 8 of the paper: the length of the video.",
        tuple(length()), prompts=4, figure=True, axis="video frames",
    ),
    "predictors": Suite("Predictors, each on the same forwards.", tuple(predictors())),
    "selective": Suite(
        "Forwarding only latent frames under way, with block-causal and with full attention.",
        tuple(selective("demo", "demo, full attention")),
    ),
    "steps": Suite(
        "Fewer steps for the same time.", tuple(steps()), figure=True,
        notes=STEPS_NOTE + " `selective`: the same, forwarding only the latent frames under way, as we do.",
    ),
    "synchronous": Suite(
        "All latent frames in step (ar_step 0), every method.",
        tuple(all_methods("", {"ar_step": 0}, IN_STEP)), seeds=2, figure=True,
    ),
    "long": Suite(
        "257 frames, three segments, every method.",
        tuple(all_methods("", {"num_frames": 257}, STAIRS)), seeds=2, figure=True, notes=STEPS_NOTE,
    ),
    "physics": Suite(
        "The second model (full attention, a staircase of latent frames), every method.",
        tuple(all_methods("physics", {}, STAIRS)), seeds=2, figure=True, notes=STEPS_NOTE,
    ),
    "physics-synchronous": Suite(
        "The second model, all latent frames in step (ar_step 0), every method.",
        tuple(all_methods("physics", {"ar_step": 0}, IN_STEP)), seeds=2, figure=True,
    ),
    "magi": Suite(
        "The third model, in the official MAGI-1 loop with guidance, every method.",
        tuple(magi("magi")), seeds=2, figure=True, notes=MAGI_NOTE,
    ),
    "magi-distilled": Suite(
        "The third model, distilled to one forward a step, in the official MAGI-1 loop, every method.",
        tuple(magi("magi, distilled")), seeds=2, figure=True, notes=MAGI_NOTE,
    ),
    "physics-defaults": Suite(
        "The second model: scope with one default changed.", tuple(defaults("physics")), prompts=4
    ),
    "magi-defaults": Suite("The third model: scope with one default changed.", tuple(defaults("magi")), prompts=4),
    "physics-selective": Suite(
        "The second model: forwarding only latent frames under way, under full attention.", tuple(selective("physics"))
    ),
    "levels": Suite(
        "Where it is skipped: the velocity (no forward), or the residual of the blocks (embedding and head are fresh).",
        tuple(levels()), figure=True,
    ),
}  # fmt: skip
