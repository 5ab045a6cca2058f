"""The parts of the page around the timelines. Everything that a report says in words is escaped here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .look import LOOKS, MARKS, REASONS
from .record import Generation, Segment
from .style import CLASSES
from .svg import shape
from .timeline import NOT_RUN, Timeline
from .totals import MODES, Totals, totals


def overview(sums: Totals | None) -> list[str]:
    """The numbers that say whether it was worth it; nothing where nothing was patched."""
    if sums is None:
        return []
    aimed = f" (aimed at {sums.target:g}x)" if sums.target is not None else ""
    work = (f"{sums.speedup:.2f}x", f"less work for the DiT, by the cost model{aimed}") if sums.speedup else None
    cards = [
        *([work] if work else []),
        (f"{sums.before} → {sums.after}", "DiT forwards"),
        (f"{sums.frames_before} → {sums.frames_after}", "latent frames in them"),
        (f"{sums.seconds.total:.1f} s", f"in all; {sums.memory / 1e6:.1f} MB of velocities kept"),
    ]
    times = [("dit", "DiT", sums.seconds.dit), ("overhead", "scope_patch", sums.seconds.overhead)]
    times.append(("rest", "everything else", sums.rest))
    return [
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{big}</b><span>{escape(small)}</span></div>' for big, small in cards)
        + "</div>",
        '<div class="bars">',
        _bar("Iterations", [(mode, f"{sums.modes[mode]} {MODES[mode]}", sums.modes[mode]) for mode in "RPC"]),
        _bar("Time", [(name, f"{seconds:.2f} s {told}", seconds) for name, told, seconds in times]),
        "</div>",
    ]


def _bar(title: str, parts: Sequence[tuple[str, str, float]]) -> str:
    """(class, label, size) of each part, drawn to scale."""
    whole, at, drawn, keys = sum(size for *_, size in parts) or 1.0, 0.0, "", ""
    for name, label, size in parts:
        share = 100 * size / whole
        drawn += f'<rect class="{name}" x="{at:.2f}%" width="{share:.2f}%" height="20"/>'
        keys += f"<li>{_swatch(name)}{escape(label)}</li>"
        at += share
    bar = f'<svg class="bar" role="img" aria-label="{escape(title)}">{drawn}</svg>'
    return f'<div><h3>{escape(title)}</h3>{bar}<ul class="keys">{keys}</ul></div>'


def _swatch(name: str) -> str:
    return _key(f'<rect class="{name} swatch" x=".5" y=".5" width="21" height="12"/>')


def _key(drawing: str) -> str:
    return f'<svg class="key" width="22" height="13" aria-hidden="true">{drawing}</svg>'


def notes(sentences: Iterable[str]) -> list[str]:
    """What must not be missed."""
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return [f'<ul class="notes">{told}</ul>'] if told else []


def generations(every: Sequence[Generation]) -> list[str]:
    """One line each, with a link."""
    rows = []
    for k, generation in enumerate(every, start=1):
        sums = totals([generation])
        speedup = f"{sums.speedup:.2f}x" if sums.speedup else "-"
        cells = [f"{sums.before} → {sums.after}", f"{sums.frames_before} → {sums.frames_after}", speedup]
        cells.append(f"{sums.seconds.total:.1f}")
        numbers = "".join(f'<td class="n">{cell}</td>' for cell in cells)
        link = f'<a href="#generation-{k}">{k}</a>'
        rows.append(f"<tr><td>{link}</td>{numbers}<td>{escape(_state(generation))}</td></tr>")
    names = ("DiT forwards", "latent frames", "less work", "seconds")
    head = "".join(f'<th class="n">{name}</th>' for name in names)
    return [
        '<h2>Generations</h2><div class="wide"><table>',
        f"<tr><th></th>{head}<th></th></tr>{''.join(rows)}</table></div>",
    ]


def _state(generation: Generation) -> str:
    if not generation.applied:
        return "ran unpatched"
    if not generation.finished:
        return "did not finish"
    return "" if generation.segments else "no denoise loop"


def headline(generation: Generation) -> str:
    """What became of a generation, in a sentence."""
    sums = totals([generation])
    if not generation.segments:
        why = "; ".join(generation.reasons) or generation.error or "no denoise loop was entered"
        return escape(f"Nothing was decided: {why}.")
    told = f"DiT forwards {sums.before} → {sums.after}, latent frames {sums.frames_before} → {sums.frames_after}"
    if sums.speedup:
        told += f", {sums.speedup:.2f}x less work for the DiT"
    told += f"; {sums.seconds.total:.1f} s, {sums.seconds.dit:.1f} s of them in the DiT"
    if not generation.applied:
        told += "; ran unpatched: " + "; ".join(generation.reasons)
    if not generation.finished:
        told += f"; did not finish: {generation.error or 'still running'}"
    return escape(told)


def caption(number: int, made: Timeline, segment: Segment) -> str:
    """One segment in a line."""
    told = f"Segment {number}: {made.iterations} iterations, {made.frames} latent frames, "
    told += f"{segment.slots_baseline} → {segment.slots_computed} forwarded"
    if made.ran < made.iterations:
        told += f"; ended after {made.ran} iterations"
    if made.note:
        told += f"; as the host does it, because {made.note}"
    if not made.active and made.ran:
        told += "; an older report, which does not say which latent frames were integrated"
    return escape(told)


def reasons(sums: Totals) -> list[str]:
    """Why, how often; guards and forced forwards."""
    rows = []
    for (mode, reason), count in sorted(sums.reasons.items(), key=lambda pair: ("RPC".index(pair[0][0]), -pair[1])):
        cells = f"<td>{_swatch(mode)} {MODES[mode]}</td><td>{escape(reason)}</td>"
        rows.append(f'<tr>{cells}<td class="n">{count}</td><td class="soft">{REASONS.get(reason, "")}</td></tr>')
    for name, counts in (("guard", sums.guards), ("forced forwards", sums.forced)):
        for what, count in sorted(counts.items()):
            rows.append(f'<tr><td>{name}</td><td>{escape(what)}</td><td class="n">{count}</td><td></td></tr>')
    if not rows:
        return []
    head = '<tr><th>decision</th><th>why</th><th class="n">times</th><th></th></tr>'
    return [f'<div class="wide"><table class="keyed">{head}{"".join(rows)}</table></div>']


def legend(drawn: Sequence[Timeline]) -> list[str]:
    """The states and marks that occur."""
    states = set().union(*(made.states for made in drawn)) | {mode for made in drawn for mode in made.modes}
    keys = [
        (_swatch(CLASSES[state]), look.name, look.meaning)
        for state, look in LOOKS.items()
        if state in states - {NOT_RUN}
    ]
    line = _key('<path class="stairs" d="M0 11H8V6H15V2H22"/>')
    keys.append((line, "staircase", "the interval of latent frames under way"))
    seen = {reason for made in drawn for reason in made.reasons}
    for reason, name in MARKS.items():
        if reason in seen:
            mark = _key(f'<path class="why {name}" d="{shape(name, 11, 7, 4)}"/>')
            keys.append((mark, reason, REASONS[reason]))
    items = "".join(
        f'<li>{drawing}<span>{name} <span class="soft">{escape(meaning)}</span></span></li>'
        for drawing, name, meaning in keys
    )
    return [f'<div class="legend"><ul class="keys">{items}</ul></div>']


def settings(values: Mapping[str, Any]) -> list[str]:
    """Word by word, as the report has them."""
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td><code>{escape(json.dumps(value))}</code></td></tr>"
        for name, value in values.items()
    )
    return [f'<h2>Settings</h2><div class="wide"><table>{rows}</table></div>'] if rows else []
