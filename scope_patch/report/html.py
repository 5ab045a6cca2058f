"""A report as one page: no script, nothing loaded, everything in the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from . import errors, sections
from .load import Loaded
from .record import Generation
from .style import css, patterns
from .svg import plot
from .timeline import Timeline, timeline
from .totals import patched, totals
from .verified import sentence

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may load for this page: nothing. Whatever a report says cannot run."""


def page(loaded: Loaded) -> str:
    """The whole page, as UTF-8 text."""
    run = loaded.run
    host = ", ".join(run.hosts) or "no host"
    drawn = [[timeline(segment) for segment in generation.segments] for generation in run.generations]
    every = [made for each in drawn for made in each]
    signal = f", decided from the {escape(run.signal)}" if run.signal else ""
    body = [
        f"<h1>{escape(host)}: what was skipped</h1>",
        f'<p class="soft">scope_patch, policy {escape(str(run.settings.policy))}{signal}</p>',
        *sections.overview(totals(patched(run.generations)) if run.applied else None),
        *sections.notes(_notes(loaded)),
        *(sections.generations(run.generations) if len(run.generations) > 1 else ()),
        *(sections.legend(every) if every else ()),
        *_generations(run.generations, drawn, run.settings.verify_bound),
        *sections.settings(loaded.settings),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>scope_patch: {escape(host)}</title><style>{css()}</style></head>\n"
        f"<body>{patterns()}<main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def _notes(loaded: Loaded) -> Iterable[str]:
    """What the reader must not miss, each once."""
    run = loaded.run
    head = "" if run.applied else "nothing was patched in effect: "
    told = [f"{head}{'; '.join(run.told)}"] if run.told else []
    told += [remark for generation in run.generations for remark in generation.remarks]
    for k, generation in enumerate(run.generations, start=1):
        if not generation.finished:
            told.append(f"generation {k} did not finish: {generation.error or 'still running'}")
    return dict.fromkeys(told)


def _generations(generations: Sequence[Generation], drawn: Sequence[Sequence[Timeline]], bound: float) -> Iterable[str]:
    """A section each; a timeline that was drawn before is referred to."""
    places: dict[Timeline, tuple[str, str]] = {}
    for k, (generation, each) in enumerate(zip(generations, drawn, strict=True), start=1):
        yield f'<section id="generation-{k}"><h2>Generation {k}</h2>'
        yield f"<p>{sections.headline(generation)}</p>"
        longest = max((made.iterations for made in each), default=0)
        for told in sentence([generation], bound):
            yield f"<p>{escape(told[0].upper() + told[1:])}.</p>"
        for n, (made, segment) in enumerate(zip(each, generation.segments, strict=True), start=1):
            name, anchor = f"generation {k}, segment {n}", f"segment-{k}-{n}"
            caption = sections.caption(n, made, segment)
            if made in places:
                told, where = places[made]
                same = f'the same decisions as in <a href="#{where}">{told}</a>'
                yield f'<p id="{anchor}" class="soft">{caption}: {same}</p>'
            else:
                places[made] = (name, anchor)
                yield f'<figure id="{anchor}"><figcaption>{caption}</figcaption>'
                yield f'<div class="scroll">{plot(made, longest, f"Timeline of {name}")}</div></figure>'
            yield from errors.section(segment, longest, bound, f"Verified errors of {name}")
        yield from sections.reasons(totals([generation]))
        yield "</section>"
