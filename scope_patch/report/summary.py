"""What came of a run: its numbers, summed up once for every kind of report, and the closing summary in words.

The summary says in a few lines what was skipped, or plainly that nothing was, and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .read import Report
from .record import PARTLY, WORDS, GenerationRecord, Run, Segment, Sums, Verified, Words
from .timeline import LOOKS, NOT_RUN, REASONS, Timeline, step, timelines

IDLE = "no denoise loop was entered"
WIDTH = 100  # iterations a line
LEGEND = (
    "C cached, P predicted, R recomputed, F forced; + forwarded along, - left out (finished or given), . not started",
    "u unpatched: the host's own",
    "why: g growth, h history, m --max-skip, f forced, c context, v --verify, ! guard, . threshold or plan",
)


@dataclass
class Totals(Sums):
    """Sums, and what is known only of generations that are there in full.

    Attributes:
        memory: bytes of kept velocities, and of what it takes to take steps again, the most at once.
        replayed: of these, what it takes to take steps again.
        frozen: the same of keys and values.
        reasons: iterations by (mode, reason).
        plans: those that were carried out to the end.
        kinds: what the steps of their segments are.
    """

    memory: int = 0
    replayed: int = 0
    again: int = 0
    frozen: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    guards: Counter[str] = field(default_factory=Counter)
    forced: Counter[str] = field(default_factory=Counter)
    plans: list[dict[str, Any]] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, generations: Sequence[GenerationRecord], omitted: Sums | None = None) -> Totals:
        """Over generations, and those that a run has summed up already."""
        totals = cls()
        totals.join(omitted or Sums())
        for generation in generations:
            totals.add(generation)
        return totals

    def add(self, generation: GenerationRecord) -> None:
        super().add(generation)
        if not generation.patched:
            return
        self.memory = max(self.memory, generation.history_bytes_peak + generation.replay_bytes_peak)
        self.replayed = max(self.replayed, generation.replay_bytes_peak)
        self.frozen = max(self.frozen, generation.frozen_bytes_peak)
        for segment in generation.segments:
            self.again += segment.again
            self.kinds.add(segment.steps)
            self.reasons.update(zip(segment.modes, segment.reasons, strict=True))
        self.guards.update(generation.guards)
        self.forced.update(generation.forced)
        if generation.finished:
            self.plans += generation.planned

    @property
    def words(self) -> Words:
        """What is counted; of a mixture, as on videos."""
        return WORDS[next(iter(self.kinds))] if len(self.kinds) == 1 else WORDS[""]

    @property
    def forwards(self) -> str:
        """DiT forwards of the host alone, and those that ran."""
        return f"{self.forwards_run + self.forwards_skipped} → {self.forwards_run}"

    @property
    def slots(self) -> str:
        return f"{self.slots_baseline} → {self.slots_computed}"

    @property
    def kept(self) -> str:
        keys = f", {self.frozen / 1e6:.1f} MB of keys and values of finished latent frames" if self.frozen else ""
        latents = f" (with {self.replayed / 1e6:.1f} MB to take steps again)" if self.replayed else ""
        return f"{self.memory / 1e6:.1f} MB of {self.words.kept} kept{latents}{keys}"

    @property
    def rest(self) -> float:
        """Seconds outside both the DiT and our own code: text encoder, VAE, the host's solver."""
        return max(0.0, self.seconds.total - self.seconds.dit - self.seconds.overhead)

    @property
    def speedups(self) -> dict[str, float]:
        """How many times less work the DiT had, by what work was counted in ("the cost model")."""
        work: dict[str, tuple[float, float]] = {}
        for plan in self.plans:
            name = f"the {plan['unit']}" if plan.get("unit", "flops") != "flops" else "the cost model"
            baseline, left = work.get(name, (0.0, 0.0))
            work[name] = baseline + plan["baseline"], left + plan["work"] + plan.get("tightened", 0.0)
        return {name: baseline / left for name, (baseline, left) in work.items() if left}

    @property
    def target(self) -> float | None:
        """The speed-up that was aimed at; None where none was, or it differs."""
        targets = {plan["target"] for plan in self.plans}
        return targets.pop() if len(targets) == 1 else None

    @property
    def less_work(self) -> str:
        return ", ".join(f"{times:.2f}x less work for the DiT by {unit}" for unit, times in self.speedups.items())


def lines(run: Run, so_far: bool = False) -> list[str]:
    """The summary of a run, without newlines. `so_far`: other processes of its job may still do something."""
    totals, host, yet = Totals.of(run.generations, run.omitted), ", ".join(run.hosts) or "no host", " so far" * so_far
    if run.applied:
        videos = f"{totals.applied} generation{'s' if totals.applied != 1 else ''}{yet}"
        videos += ", patched in part" if run.status == PARTLY else ""
        out = [f"scope_patch: {host}, {videos}, policy {run.settings.policy}, signal {run.signal or 'none'}"]
        out += [f"  {line}" for line in _numbers(run, totals)]
    else:
        out = [f"scope_patch: nothing was patched in effect{yet} ({host}): {'; '.join(run.all_reasons)}"]
    out += [f"  {note}" for note in notes(run, totals)]
    return [*out, f"  report: {run.settings.report}"] if run.settings.report else out


def _numbers(run: Run, totals: Totals) -> Iterator[str]:
    words, seconds = totals.words, totals.seconds
    frames = f"{words.slots} {totals.slots_baseline} -> {totals.slots_computed}"
    modes = ", ".join(f"{totals.modes[mode]} {LOOKS[mode].name}" for mode in "CPR")
    ran, skipped = totals.forwards_run, totals.forwards_skipped
    if skipped:
        yield f"{words.forwards} {ran + skipped} -> {ran}, {frames} ({modes})"
        aimed = "" if totals.target is None else f", aimed at 1/{totals.target:g}"
        yield from (f"DiT work 1/{times:.2f} by {unit}{aimed}" for unit, times in totals.speedups.items())
        if totals.again:
            yield f"{totals.again} skipped steps were taken again, with velocities between those computed around them"
    else:
        yield f"nothing was skipped: all {ran} {words.forwards} ran, because {_why_nothing(run, totals)} ({modes})"
        if totals.slots_computed < totals.slots_baseline:
            yield f"{frames}: those that had not started were left out"
    spent = f"{seconds.total:.1f} s in all, {seconds.dit:.1f} s in the DiT, {seconds.overhead:.2f} s overhead"
    yield f"{spent}, {totals.kept}"
    yield from verified(run.generations, run.settings.verify_bound)
    if totals.guards:
        yield "guards: " + ", ".join(f"{name} {count}" for name, count in sorted(totals.guards.items()))


def notes(run: Run, totals: Totals) -> Iterator[str]:
    """What must not be missed beside the numbers; the reasons only where others ran patched."""
    yield from dict.fromkeys(remark for generation in run.generations for remark in generation.remarks)
    if totals.unfinished:
        errors = [each.error or "still running" for each in run.generations if not each.finished]
        yield f"{totals.unfinished} not finished{f': {errors[-1]}' if errors else ''}"
    refused, partly, reasons = totals.generations - totals.applied, totals.partly, run.all_reasons
    idle = any(each.finished and not each.segments and not each.reasons for each in run.generations)
    if idle or (refused > totals.unfinished and not reasons):
        reasons = [*reasons, IDLE]
    if reasons and run.applied:
        counted = (refused, "ran unpatched"), (partly, "in part" if refused else "ran unpatched in part")
        counts = ", ".join(f"{number} {how}" for number, how in counted if number)
        yield f"{counts}{': ' if counts else ''}{'; '.join(reasons)}"


def _why_nothing(run: Run, totals: Totals) -> str:
    if run.settings.policy_name == "never":
        return "the policy is `never`"
    if run.settings.max_skip == 0:
        return "--max-skip is 0"
    counts = Counter(reason for _, reason in totals.reasons.elements())
    return "every step had a reason to recompute: " + ", ".join(f"{name} {n}" for name, n in counts.most_common())


def outcome(generation: GenerationRecord) -> Iterator[str]:
    """What went otherwise than asked for in one generation; nothing where it went as it should."""
    reasons = "; ".join(generation.reasons)
    if not generation.applied:
        yield f"ran unpatched: {reasons}" if reasons else "ran unpatched"
    elif reasons:
        yield f"unpatched in part: {reasons}"
    if not generation.segments and not reasons:
        yield IDLE
    if not generation.finished:
        yield f"did not finish: {generation.error or 'still running'}"


def places(generations: Sequence[GenerationRecord]) -> list[str]:
    """Where each ran ("process 7, ranks 0 and 1"); empty texts where all ran in one process."""
    if len({each.pid for each in generations}) < 2 and all(len(each.ranks) < 2 for each in generations):
        return [""] * len(generations)
    found = []
    for each in generations:
        ranks = f"rank{'s' if len(each.ranks) > 1 else ''} {' and '.join(map(str, each.ranks))}" if each.ranks else ""
        found.append(", ".join(filter(None, ["" if each.pid is None else f"process {each.pid}", ranks])))
    return found


def verified(generations: Sequence[GenerationRecord], bound: float) -> list[str]:
    """What verifying found, all of it in one line; nothing where nothing was verified."""
    found = [
        (k, n, each)
        for k, generation in enumerate(generations, start=1)
        if generation.patched
        for n, segment in enumerate(generation.segments, start=1)
        for each in segment.verified
    ]
    if not found:
        return []
    errors = [each.error for *_, each in found if each.error is not None]
    expected = [each.expected for *_, each in found if each.expected is not None]
    sentence = f"verified {len(found)} skipped step{'s' if len(found) > 1 else ''}: "
    sentence += f"true error {_span(errors)}" if errors else "no true error is a number"
    sentence += f" (expected {_span(expected)})" if expected else ""
    above = [place for place in found if place[-1].tightened is not None]
    sentence += f", {len(above) or 'none'} above {bound:g}"
    if above:
        k, n, last = above[-1]
        sentence += f": in generation {k}, the last of {len({k for k, *_ in above})}," if len(generations) > 1 else ":"
        sentence += f" {_limit(last)} from iteration {last.iteration + 1}"
        sentence += f" of segment {n} on" if len(generations[k - 1].segments) > 1 else " on"
    return [sentence]


def verified_rows(segment: Segment) -> Iterator[tuple[str, str, str, str]]:
    """(iteration, expected error, true error, what followed from it or ""), as text."""
    for each in segment.verified:
        followed = "" if each.tightened is None else f"above the bound: {_limit(each)} from here on"
        yield str(each.iteration), _number(each.expected, "-"), _number(each.error, "no number"), followed


def _limit(verified: Verified) -> str:
    """What was allowed after an error above the bound."""
    most = verified.tightened
    return f"at most {most} skip{'' if most == 1 else 's'} in a row" if most else "nothing is skipped"


def _number(error: float | None, missing: str = "") -> str:
    """Two digits that count."""
    return missing if error is None else f"{error:.2g}" if error < 0.01 else f"{error:.3f}"


def _span(errors: Sequence[float]) -> str:
    low, high = _number(min(errors)), _number(max(errors))
    return low if low == high else f"{low} to {high}"


def text(report: Report) -> str:
    """A report, readable on a terminal: the closing summary, and its timelines in letters; no newline at the end."""
    out = lines(report.run)
    drawn = {place: (line, alike[0]) for line, alike in timelines(report.run).items() for place in alike}
    found = zip(report.run.generations, places(report.run.generations), strict=True)
    for k, (generation, place) in enumerate(found, start=1):
        out += ["", ", ".join([f"generation {k}", *([place] if place else []), *outcome(generation)])]
        for n, segment in enumerate(generation.segments, start=1):
            line, first = drawn[k, n]
            ended = f"; {line.rest} after {line.ran}" if line.rest else ""
            size = "" if segment.steps else f", {line.frames} latent frames"
            out.append(f"  segment {n}: {line.iterations} {line.words.steps}{size}{ended}")
            if segment.note:
                out.append(f"  as the host does it, because {segment.note}")
            out += _picture(line) if first == (k, n) else ["  as generation {}, segment {}".format(*first)]
            if segment.verified:
                out.append(f"  {'verified':>9} {'expected':>9} {'true':>9}")
            for iteration, expected, error, followed in verified_rows(segment):
                out.append(f"  {iteration:>9} {expected:>9} {error:>9}  {followed}".rstrip())
    return "\n".join([*out, "", *LEGEND] if drawn else out)


def _picture(line: Timeline) -> Iterator[str]:
    """The last latent frames at the top."""
    rows = {f"{low}-{high - 1}" if high - low > 1 else str(low): row for (low, high), row in line.rows()}
    margin = max(map(len, [*rows, "why"]))
    why = "".join(REASONS.get(reason, "?")[0] for reason in line.reasons)
    for left in range(0, max(line.ran, 1), WIDTH):
        part, length = slice(left, left + WIDTH), min(line.ran - left, WIDTH)
        by = max(10, step(length, 10))
        scale = "".join(f"{left + k:<{by}}" for k in range(0, max(length, 1), by))  # each below and right of its own
        for name, row in reversed(rows.items()):
            yield f"  {name:>{margin}} {row[part].rstrip(NOT_RUN)}"
        yield f"  {'why':>{margin}} {why[part]}"
        yield f"  {'':>{margin}} {scale.rstrip()}"
