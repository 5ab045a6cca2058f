"""The plans of a job, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..method.fold import EXPECTED, placed_by
from ..method.plan import Plan, Planner
from ..method.profile import read
from ..method.resolved import EVERYTHING
from ..method.verifying import State
from ..settings import NO_LIMIT
from .jobs import Job, Part

LINE = 100


@dataclass(frozen=True)
class Outlook:
    """Plans of all parts.

    Attributes:
        exact: what a run is going to do. Otherwise the signal needs the model, and there are bounds: `least` (nothing
            is skipped) and `most` (everything that the horizon and forced forwards allow).
        signal: what the decisions are made from; None where it has no say, or is not known.
    """

    job: Job
    exact: tuple[Plan, ...]
    least: tuple[Plan, ...]
    most: tuple[Plan, ...]
    signal: str | None


def look(job: Job) -> Outlook:
    """The plans of a job, made by the code that decides in a run.

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
    planners = [Planner(method, part.schedule, part.work, feature, part.freezing, job.guided) for part in job.parts]
    if fixed or signal is not None:
        profile = read(settings.profile) if method.placed and settings.profile else None
        plans = [planner.resolved(profile) for planner in planners]
        return Outlook(job, _verified(planners, plans), (), (), signal)
    if method.traits.self_tuned:
        needed = "--weights DIR" if job.signal == "timestep" else "a run"
        raise UsageError(f"policy {settings.policy} decides from the {job.signal} signal, which needs {needed}")
    bounds = [[planner.at((0.0, end)) for planner in planners] for end in (0.0, EVERYTHING)]
    least, most = (_verified(planners, plans) for plans in bounds)
    return Outlook(job, (), least, most, None)


def _verified(planners: Sequence[Planner], plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """With the skipped iterations that --verify runs; which ones is counted over all parts."""
    method = planners[0].method
    if not method.settings.verify or method.unverifiable():
        return tuple(plans)
    state, out = State(), []
    for planner, plan in zip(planners, plans, strict=True):
        plan, state = planner.verified(plan, state)
        out.append(plan)
    return tuple(out)


def as_dict(outlook: Outlook) -> dict[str, Any]:
    """For `--json`: totals, and every part's plan."""
    job, (here, elsewhere) = outlook.job, outlook.job.held
    out: dict[str, Any] = {
        "exact": bool(outlook.exact),
        "signal": outlook.signal,
        "history_bytes": here,
        "history_bytes_elsewhere": elsewhere,
        "replay_bytes": job.replay_bytes,
        "frozen_bytes": max((each.frozen for each in outlook.exact or outlook.least), default=0),
    }
    if outlook.exact:
        out["plan"], out["target"] = _totals(job, outlook.exact), outlook.exact[0].target
    else:
        out["least"], out["most"] = _totals(job, outlook.least), _totals(job, outlook.most)
    remarks = [*job.remarks, *(plan.remark for plan in outlook.exact if plan.remark)]
    return {**out, "remarks": list(dict.fromkeys(remarks))}


def lines(outlook: Outlook) -> list[str]:
    """For people."""
    figures, job = as_dict(outlook), outlook.job
    out = []
    if outlook.exact:
        for k, part in enumerate(figures["plan"]["parts"], start=1):
            modes = part["modes"]
            out.append(f"part {k}: {len(modes)} iterations")
            out += [f"  {modes[i : i + LINE]}" for i in range(0, len(modes), LINE)]
        out.append(_numbers("planned", figures["plan"]))
        out += _verifying(figures["plan"])
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


def _verifying(total: dict[str, Any]) -> list[str]:
    """What verifying adds."""
    parts = [part["verified"] for part in total["parts"]]
    runs = sum(len(part["iterations"]) for part in parts)
    if not runs:
        return []
    adds, forwards = sum(part["work"] for part in parts) / 1e15, sum(part["forwards"] for part in parts)
    without = total["pflop"]["original"] / (total["pflop"]["planned"] - adds)
    return [
        f"verifying: {runs} skipped steps run all the same ({forwards} of these forwards); {without:.2f} times less "
        "without them. An error above the bound makes more run than is planned"
    ]


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
    schedule, forwarded = part.schedule, [(i, verdict.forwarded) for i, verdict in enumerate(plan.verdicts)]
    ran = [(i, slots) for i, slots in forwarded if slots[0] < slots[1]]
    whole = [(i, (start + schedule.clean_prefix(i), end)) for i, (start, end) in enumerate(schedule.baseline)]
    baseline, computed = (schedule.frames * sum(part.size(i, slots) for i, slots in each) for each in (whole, ran))
    verified = [(i, verdict.forwarded) for i, verdict in enumerate(plan.verdicts) if verdict.instead is not None]
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
