"""A job, its plans (made by the code that decides in a run) and those of an image, as text and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..hosts.infinity import Decided, Image
from ..method.fold import EXPECTED, Feature, placed_by
from ..method.frozen import Freezing
from ..method.plan import Plan, Planner, Work
from ..method.profile import read
from ..method.resolved import EVERYTHING, Method
from ..method.schedule import Interval, Schedule
from ..method.verifying import State
from ..settings import NO_LIMIT

LINE = 100


@dataclass(frozen=True)
class Part:
    """One segment of a long video, or the walk along one.

    Attributes:
        schedule: what is denoised when.
        work: FLOPs of forwarding slots at an iteration, all runs of the network together.
        size: slots in such a forward, all runs of the network together.
        runs: of the network in one such forward (guidance branches).
        freezing: which finished latent frames keep their keys and values; None: none does.
        extra: FLOPs of forwards that are none of a denoise step's own, and run in any case.
    """

    schedule: Schedule
    work: Work
    size: Callable[[int, Interval], int]
    runs: int
    extra: float = 0.0
    freezing: Freezing | None = None


@dataclass(frozen=True)
class Job:
    """A whole run.

    Attributes:
        parts: in order.
        method: that decides.
        signal: what it decides from: timestep, embedding, expected or none.
        history_bytes: of what is kept, where nothing limits it.
        replay_bytes: of what it takes to take skipped steps again, at the most.
        feature: the timestep signal and its name for people, where the model's weights are at hand.
        remarks: what the user should know of the settings.
    """

    parts: Sequence[Part]
    method: Method
    signal: str
    history_bytes: int
    replay_bytes: int = 0
    feature: tuple[Feature, str] | None = None
    remarks: Sequence[str] = ()


def look(job: Job) -> dict[str, Any]:
    """For `--json`: totals, and every part's plan.

    "plan" where it is exact, what a run is going to do. Otherwise the signal needs the model, and there are bounds:
    "least" (nothing is skipped) and "most" (everything that the horizon and forced forwards allow). "signal" is what
    decisions are made from; None where it has no say, or is not known.

    Raises UsageError for a policy whose signal is not at hand and that has no bounds.
    """
    method, settings, feature, signal = job.method, job.method.settings, None, None
    fixed = not method.asks or settings.thresholds in (NO_LIMIT, (0.0, 0.0))
    if method.placed:
        signal = placed_by(settings.profile)
    elif not fixed and job.signal == "expected":
        signal = EXPECTED
    elif not fixed and job.signal == "timestep" and job.feature is not None:
        feature, signal = job.feature
    planners = [Planner(method, part.schedule, part.work, feature, part.freezing, part.runs > 1) for part in job.parts]
    exact = fixed or signal is not None
    if exact:
        profile = read(settings.profile) if method.placed and settings.profile else None
        plans = {"plan": [planner.resolved(profile) for planner in planners]}
    elif method.traits.self_tuned:
        needed = "--weights DIR" if job.signal == "timestep" else "a run"
        raise UsageError(f"policy {settings.policy} decides from the {job.signal} signal, which needs {needed}")
    else:
        ends = {"least": 0.0, "most": EVERYTHING}
        plans = {name: [planner.at((0.0, end)) for planner in planners] for name, end in ends.items()}
    plans = {name: _verified(planners, each) for name, each in plans.items()}
    first, here, limit = next(iter(plans.values())), job.history_bytes, settings.limit
    if limit is not None:  # bytes on the model's device, at the most (see `method.memory`)
        least = here // method.predictor.keeps if limit.drop else 0
        here = min(here, max(limit.size, least))
    out: dict[str, Any] = {
        "exact": exact,
        "signal": signal,
        "history_bytes": here,
        "history_bytes_elsewhere": 0 if limit is not None and limit.drop else job.history_bytes - here,
        "replay_bytes": job.replay_bytes,
        "frozen_bytes": max(each.frozen for each in first),
        **{name: _totals(job, each) for name, each in plans.items()},
    }
    remarks = [*job.remarks]
    if exact:
        out["target"] = first[0].target
        remarks += [plan.remark for plan in first if plan.remark]
    return {**out, "remarks": list(dict.fromkeys(remarks))}


def _verified(planners: Sequence[Planner], plans: list[Plan]) -> list[Plan]:
    """With the skipped iterations that --verify runs; which ones is counted over all parts."""
    method = planners[0].method
    if not method.settings.verify or method.unverifiable():
        return plans
    state, out = State(), []
    for planner, plan in zip(planners, plans, strict=True):
        plan, state = planner.verified(plan, state)
        out.append(plan)
    return out


def lines(job: Job, figures: dict[str, Any]) -> list[str]:
    """What `look` gives, for people."""
    out = []
    if figures["exact"]:
        for k, part in enumerate(figures["plan"]["parts"], start=1):
            modes = part["modes"]
            out.append(f"part {k}: {len(modes)} iterations")
            out += [f"  {modes[i : i + LINE]}" for i in range(0, len(modes), LINE)]
        out.append(_numbers("planned", figures["plan"]))
        verified = [part["verified"] for part in figures["plan"]["parts"]]
        runs = sum(len(part["iterations"]) for part in verified)
        if runs:
            forwards = sum(part["forwards"] for part in verified)
            pflop, adds = figures["plan"]["pflop"], sum(part["work"] for part in verified) / 1e15
            without = pflop["original"] / (pflop["planned"] - adds)
            out.append(
                f"verifying: {runs} skipped steps run all the same ({forwards} of these forwards); {without:.2f} times "
                "less without them. An error above the bound makes more run than is planned"
            )
    else:
        needed = "the signal needs the model's weights (--weights DIR)"
        out.append(f"thresholds and targets are not evaluated: {needed}. The bounds:")
        out += [_numbers("most skipped", figures["most"]), _numbers("nothing skipped", figures["least"])]
    if figures["signal"] is not None:
        out.append(f"decided from: {figures['signal']}")
    kept = "residuals" if job.method.level == "residual" else "velocities"
    more = figures["history_bytes_elsewhere"] / 1e6
    moved = f", and {more:.1f} MB on the CPU (dropped, where the model is there too)" if more else ""
    again = f"; {job.replay_bytes / 1e6:.1f} MB to take skipped steps again" if job.replay_bytes else ""
    out.append(f"extra memory: {figures['history_bytes'] / 1e6:.1f} MB of {kept}{moved}{again}")
    if figures["frozen_bytes"]:
        out.append(f"and {figures['frozen_bytes'] / 1e6:.1f} MB of keys and values of finished latent frames")
    return [*out, *figures["remarks"]]


def _numbers(name: str, total: dict[str, Any]) -> str:
    return (
        f"{name}: DiT forwards {total['forwards']['baseline']} -> {total['forwards']['run']}, latent frames "
        f"{total['slots']['baseline']} -> {total['slots']['computed']}, {total['pflop']['original']:.4g} -> "
        f"{total['pflop']['planned']:.4g} PFLOP, {total['speedup']:.2f} times less"
    )


def _totals(job: Job, plans: Sequence[Plan]) -> dict[str, Any]:
    parts = [_part(part, plan) for part, plan in zip(job.parts, plans, strict=True)]
    extra = sum(part.extra for part in job.parts)
    extra_runs = sum(part.runs for part in job.parts if part.extra)
    original, planned = (sum(part[name] for part in parts) + extra for name in ("original", "planned"))
    return {
        "iterations": sum(len(part["modes"]) for part in parts),
        "modes": "".join(part["modes"] for part in parts),
        "forwards": {name: sum(part["forwards"][name] for part in parts) + extra_runs for name in ("baseline", "run")},
        "slots": {name: sum(part["slots"][name] for part in parts) for name in ("baseline", "computed")},
        "pflop": {"original": original / 1e15, "planned": planned / 1e15},
        "speedup": original / planned,
        "parts": parts,
    }


def _part(part: Part, plan: Plan) -> dict[str, Any]:
    schedule, verdicts = part.schedule, list(enumerate(plan.verdicts))
    ran = [(i, verdict.forwarded) for i, verdict in verdicts if verdict.runs]
    whole = [(i, (start + schedule.clean_prefix(i), end)) for i, (start, end) in enumerate(schedule.baseline)]
    baseline, computed = (schedule.frames * sum(part.size(i, slots) for i, slots in each) for each in (whole, ran))
    verified = [(i, verdict.forwarded) for i, verdict in verdicts if verdict.instead is not None]
    return {
        "modes": plan.modes,
        "verified": {
            "iterations": [i for i, _ in verified],
            "forwards": part.runs * len(verified),
            "work": sum(part.work(i, slots) for i, slots in verified),
        },
        "thresholds": None if plan.thresholds is None else list(plan.thresholds),
        "forwards": {"baseline": part.runs * len(schedule), "run": part.runs * len(ran)},
        "slots": {"baseline": baseline, "computed": computed},
        "original": plan.baseline,
        "planned": plan.work,
    }


def scales(image: Image, decided: Decided) -> dict[str, Any]:
    """An image that is made scale by scale, for `--json`."""
    rows = zip(image.grids, decided.actions, decided.host, decided.baseline, decided.work, strict=True)
    return {
        **decided.summary,
        "scales": [
            {"grid": list(grid), "action": str(action), "host": host, "baseline": baseline, "work": work}
            for grid, action, host, baseline, work in rows
        ],
        "remarks": list(decided.remarks),
    }


def scale_lines(figures: dict[str, Any]) -> list[str]:
    """What `scales` gives, for people."""
    host, baseline, work = (figures[name] for name in ("host", "baseline", "work"))
    out = [f"{'scale':>5} {'grid':>9} {'done':>7} {'TFLOP of the host':>18} {'share':>6} {'planned':>9}"]
    for k, scale in enumerate(figures["scales"], start=1):
        size, own, left = " x ".join(map(str, scale["grid"])), scale["host"] / 1e12, scale["work"] / 1e12
        out.append(f"{k:>5} {size:>9} {scale['action']:>7} {own:>18.3f} {scale['host'] / host:>6.1%} {left:>9.3f}")
    passes = sum(scale["action"][0] in "RS" for scale in figures["scales"])
    out.append(
        f"planned: passes of the blocks {len(figures['scales'])} -> {passes}, {host / 1e12:.4g} -> {work / 1e12:.4g} "
        f"TFLOP, {baseline / work:.2f} times less"
        + (f" ({host / work:.2f} with the unconditional rows that are waste)" if host > baseline else "")
    )
    return [*out, *figures["remarks"]]
