"""The closing summary: a few lines that say what was skipped, or plainly that nothing was, and why."""

from __future__ import annotations

from .record import Run
from .totals import MODES, Totals, patched, totals
from .verified import sentence


def lines(run: Run) -> list[str]:
    """The summary of a run, without a trailing newline on any line."""
    host = ", ".join(run.hosts) or "no host"
    if not run.applied:
        return [f"scope_patch: nothing was patched in effect ({host}): {'; '.join(run.told)}", *_where(run)]
    done = patched(run.generations)
    omitted = run.omitted
    sums = totals(done).plus(omitted)
    frames = f"latent frames {sums.frames_before} -> {sums.frames_after}"
    modes = ", ".join(f"{sums.modes[letter]} {word}" for letter, word in MODES.items())
    made = len(done) + omitted.applied
    videos = f"{made} generation{'s' if made != 1 else ''}"
    out = [f"scope_patch: {host}, {videos}, policy {run.settings.policy}, signal {run.signal or 'none'}"]
    if sums.after < sums.before:
        out.append(f"  DiT forwards {sums.before} -> {sums.after}, {frames} ({modes})")
        out += _work(sums)
    else:
        out.append(f"  nothing was skipped: all {sums.after} DiT forwards ran, because {_why_nothing(run)} ({modes})")
        if sums.frames_after < sums.frames_before:
            out.append(f"  {frames}: those that had not started were left out")
    seconds = sums.seconds
    out.append(
        f"  {seconds.total:.1f} s in all, {seconds.dit:.1f} s in the DiT, {seconds.overhead:.2f} s overhead, "
        f"{sums.memory / 1e6:.1f} MB of velocities kept"
    )
    out += [f"  {told}" for told in sentence(done, run.settings.verify_bound)]
    if sums.guards:
        out.append("  guards: " + ", ".join(f"{name} {count}" for name, count in sorted(sums.guards.items())))
    out += [f"  {remark}" for remark in dict.fromkeys(remark for g in done for remark in g.remarks)]
    unfinished = [generation for generation in run.generations if not generation.finished]
    if unfinished:
        out.append(f"  {len(unfinished)} not finished: {unfinished[-1].error or 'still running'}")
    refused = [generation for generation in run.generations if generation not in done]
    if run.told:
        out.append(f"  {f'{len(refused)} ran unpatched: ' if refused else ''}{'; '.join(run.told)}")
    return out + _where(run)


def _work(sums: Totals) -> list[str]:
    """The planned speed-up of the DiT's work, and what was aimed at."""
    if sums.speedup is None:
        return []
    aimed = "" if sums.target is None else f", aimed at 1/{sums.target:g}"
    return [f"  DiT work 1/{sums.speedup:.2f} by the cost model{aimed}"]


def _why_nothing(run: Run) -> str:
    if run.settings.policy_name == "never":
        return "the policy is `never`"
    if run.settings.max_skip == 0:
        return "--max-skip is 0"
    counts: dict[str, int] = {}
    for generation in run.generations:
        for segment in generation.segments:
            for reason in segment.reasons:
                counts[reason] = counts.get(reason, 0) + 1
    words = ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"every step had a reason to recompute: {words}"


def _where(run: Run) -> list[str]:
    return [f"  report: {run.settings.report}"] if run.settings.report else []
