"""An outlook as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..method.plan import Plan
from .job import Outlook, Part

LINE = 100
UNKNOWN = {
    "timestep": "the signal needs the model's weights (--weights DIR)",
    "latent": "the signal is the latents of the run",
}
"""Why decisions are not known, by signal."""


def as_dict(outlook: Outlook) -> dict[str, Any]:
    """For `--json`: totals, and every part's plan."""
    remarks, (here, elsewhere) = list(outlook.job.remarks), outlook.job.held(outlook.limit)
    told: dict[str, Any] = {
        "exact": bool(outlook.exact),
        "signal": outlook.signal,
        "history_bytes": here,
        "history_bytes_elsewhere": elsewhere,
    }
    if outlook.exact:
        told["plan"] = _totals(outlook, [made.plan for made in outlook.exact])
        told["target"] = outlook.exact[0].target
        remarks += [made.remark for made in outlook.exact if made.remark]
    else:
        told["least"], told["most"] = _totals(outlook, outlook.least), _totals(outlook, outlook.most)
    told["remarks"] = list(dict.fromkeys(remarks))
    return told


def lines(outlook: Outlook) -> list[str]:
    """For people."""
    told = as_dict(outlook)
    out = []
    if outlook.exact:
        for k, part in enumerate(told["plan"]["parts"], start=1):
            modes = part["modes"]
            out.append(f"part {k}: {len(modes)} iterations")
            out += [f"  {modes[i : i + LINE]}" for i in range(0, len(modes), LINE)]
        out += _numbers("planned", told["plan"])
        out += _verified(told["plan"])
    else:
        out.append(f"thresholds and targets are not evaluated: {UNKNOWN[outlook.job.signal]}. The bounds:")
        out += _numbers("most skipped", told["most"])
        out += _numbers("nothing skipped", told["least"])
    if told["signal"] is not None:
        out.append(f"decided from: {told['signal']}")
    more = told["history_bytes_elsewhere"] / 1e6
    moved = f", and {more:.1f} MB on the CPU (dropped, where the model is there too)" if more else ""
    out.append(f"extra memory: {told['history_bytes'] / 1e6:.1f} MB of {outlook.job.kept}{moved}")
    out += told["remarks"]
    return out


def _verified(total: dict[str, Any]) -> list[str]:
    """What verifying adds."""
    runs = sum(len(part["verified"]["iterations"]) for part in total["parts"])
    if not runs:
        return []
    adds = sum(part["verified"]["work"] for part in total["parts"]) / 1e15
    forwards = sum(part["verified"]["forwards"] for part in total["parts"])
    without = total["pflop"]["original"] / (total["pflop"]["planned"] - adds)
    return [
        f"verifying: {runs} skipped steps run all the same ({forwards} of these forwards); {without:.2f} times less "
        "without them. An error above the bound makes more run than is planned"
    ]


def _numbers(name: str, total: dict[str, Any]) -> list[str]:
    return [
        f"{name}: DiT forwards {total['forwards']['baseline']} -> {total['forwards']['run']}, latent frames "
        f"{total['slots']['baseline']} -> {total['slots']['computed']}, {total['pflop']['original']:.4g} -> "
        f"{total['pflop']['planned']:.4g} PFLOP, {total['speedup']:.2f} times less"
    ]


def _totals(outlook: Outlook, plans: Sequence[Plan]) -> dict[str, Any]:
    parts = [_part(part, plan) for part, plan in zip(outlook.job.parts, plans, strict=True)]
    extra = sum(part.extra for part in outlook.job.parts)
    extra_runs = sum(part.runs for part in outlook.job.parts if part.extra)
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
    schedule = part.schedule
    forwarded = [(i, verdict.forwarded) for i, verdict in enumerate(plan.verdicts)]
    ran = [(i, slots) for i, slots in forwarded if slots[0] < slots[1]]
    whole = [(i, (start + schedule.lead(i), end)) for i, (start, end) in enumerate(schedule.baseline)]
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
