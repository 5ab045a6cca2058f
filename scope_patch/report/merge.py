"""Two parts of a job's report into one: what is in the file already, and what a process has to tell since.

Reports are merged as they stand in the file, so that nothing is lost that this version does not know.
"""

from __future__ import annotations

from typing import Any

from .read import Node, generation_of
from .record import ABSENCES, FIRST_KEPT, LAST_KEPT, NO_LOOP, NOT_APPLIED, NOT_STARTED, NOTHING_SEEN, Sums, combined

Values = dict[str, Any]


def merged(there: Values, more: Values) -> Values:
    """A report of both; of many generations, those between the first and the last become sums.

    Args:
        there: a report.
        more: generations that have ended since, and of those who had them whatever is not about one generation.

    Raises UsageError where `there` cannot be read.
    """
    generations, omitted = [dict(each) for each in there["generations"]], _omitted(there)
    for generation in more["generations"]:
        _add(generations, _with_settings(generation, there, more))
    omitted.join(_omitted(more))
    for old in generations[FIRST_KEPT:-LAST_KEPT]:
        omitted.add(generation_of(Node(old, "a generation")))
    made = {
        **there,
        "host": ", ".join(dict.fromkeys(name for each in (there, more) for name in _hosts(each))) or None,
        "status": combined([each["status"] for each in (there, more) if _told(each)] or [NOT_APPLIED]),
        "settings": there["settings"] if _told(there) else more["settings"],
        "signal": more["signal"] or there["signal"],
        "generations": [*generations[:FIRST_KEPT], *generations[FIRST_KEPT:][-LAST_KEPT:]],
        **({"omitted": omitted.as_dict()} if omitted.generations else {}),
    }
    reasons = dict.fromkeys(reason for each in (there, more) for reason in each["reasons"] if reason not in ABSENCES)
    if not reasons and made["status"] == NOT_APPLIED:
        reasons = {NO_LOOP if _told(made) else NOT_STARTED if made["host"] else NOTHING_SEEN: None}
    return {**made, "reasons": list(reasons)}


def worth_telling(values: Values) -> bool:
    """Whether it has generations, or a reason why there are none."""
    return _told(values) or any(reason not in ABSENCES for reason in values["reasons"])


def _told(values: Values) -> bool:
    """Whether it has generations, in full or in sums."""
    return bool(values["generations"] or values.get("omitted"))


def _hosts(values: Values) -> list[str]:
    return values["host"].split(", ") if values["host"] else []


def _omitted(values: Values) -> Sums:
    sums: Sums = Node(values, "the report").get("omitted", Sums, Sums())
    return sums


def _with_settings(generation: Values, there: Values, more: Values) -> Values:
    """The generation; where it ran under other settings than those that the report has, it says so."""
    if not _told(there):
        return generation
    names = [name for name, value in more["settings"].items() if there["settings"].get(name) != value]
    if not names:
        return generation
    words = ", ".join(f"{name} {more['settings'][name]} (not {there['settings'].get(name)})" for name in names)
    return {**generation, "remarks": [*generation["remarks"], f"a generation ran under other settings: {words}"]}


def _add(generations: list[Values], new: Values) -> None:
    """One more; or more of one that another rank, which shares the DiT, has told of."""
    if new["call"]:
        for k, old in enumerate(generations):
            if old["call"] == new["call"] and new["rank"] not in old["ranks"]:
                generations[k] = _of_ranks(*sorted((old, new), key=lambda each: each["rank"]))
                return
    generations.append(new)


def _of_ranks(first: Values, other: Values) -> Values:
    """One generation of several ranks: the numbers are the first's, what went otherwise than asked for is of all."""
    said = {name: list(dict.fromkeys([*first[name], *other[name]])) for name in ("reasons", "remarks")}
    return {
        **first,
        **said,
        "status": combined([first["status"], other["status"]]),
        "finished": first["finished"] and other["finished"],
        "error": first["error"] or other["error"],
        "ranks": sorted({*first["ranks"], *other["ranks"]}),
    }
