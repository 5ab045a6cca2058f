"""The table of a folder, in Markdown: what points cost, and how near they came to the original."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .log import FAILED, Row
from .points import ORIGINAL
from .sums import Group, Mean, unavailable

PLACES = {"psnr": 2, "ssim": 4, "lpips": 4}
HEAD = (
    "method", "point", "n", "seconds", "times", "DiT s", "times", "DiT work", "forwards", "kept MB", "peak MB", "PSNR",
    "SSIM", "LPIPS", "worst", "failures",
)  # fmt: skip
READING = (
    "Seconds: of the pipeline's calls, {clock}; DiT s: of its forwards, by the clock; times: how many times less than "
    "the original, over all videos. DiT work: how many times less, {measured}. Kept MB: of velocities, the most at "
    "once; peak MB: of the device, or where there is none of the largest process. PSNR in dB ({cap:g} where all frames "
    "are equal), SSIM and LPIPS against the original of the same prompt and seed, means over videos ± standard error; "
    "worst: PSNR of the worst video, and its LPIPS or SSIM. Failures: black, frozen or non-finite output where the "
    "original is sound, or an error."
)


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells padded to columns."""
    table = [list(head), *(list(row) for row in rows)]
    wide = [max(3, *(len(row[k]) for row in table)) for k in range(len(table[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)) + " |" for row in table
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in wide) + "|", *lines[1:]])


def results(found: Sequence[Group]) -> str:
    """One table a host."""
    parts = [(host, markdown(head, rows)) for host, head, rows in cells(found)]
    return "\n\n".join(f"## {host}\n\n{table}" if len(parts) > 1 else table for host, table in parts)


def cells(found: Sequence[Group]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(host, head, rows) of every host, the original first; columns in which nothing stands are left out."""
    tables = []
    for host in dict.fromkeys(group.name[0] for group in found):
        mine = [group for group in found if group.name[0] == host]
        rows = [*_originals(mine), *map(_row, mine)]
        kept = [k for k in range(len(HEAD)) if k < 2 or any(row[k] for row in rows)]
        tables.append((host, [HEAD[k] for k in kept], [[row[k] for k in kept] for row in rows]))
    return tables


def made(command: str, found: Sequence[Group], rows: Sequence[Row]) -> str:
    """By which command, on how many videos, where, when, by which code."""
    videos = {video for group in found for video in group.rows}
    prompts = {prompt for prompt, _ in videos}
    what = f"{len(videos)} video{'s' if len(videos) > 1 else ''}"
    what += f" of {len(prompts)} prompt{'s' if len(prompts) > 1 else ''}" if prompts != {""} else ""
    dates = sorted({row["date"] for row in rows})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    codes = sorted({row["code"] for row in rows})
    of_code = f"code {codes[0]}" if len(codes) == 1 else f"of {len(codes)} versions of the code: {', '.join(codes)}"
    return f"`{command}`: {what}; {'; '.join(sorted({row['machine'] for row in rows}))}; {span}; {of_code}."


def troubles(rows: Sequence[Row], found: Sequence[Group], broken: int = 0) -> str:
    """What is not in the tables, and why; "" where nothing is missing.

    Args:
        broken: lines of the log that cannot be read.
    """
    lines = [f"* left out: {'; '.join(points)}: {why}" for why, points in unavailable(rows).items()]
    for why in dict.fromkeys(row["reason"] for row in rows if row["status"] == FAILED):
        where = dict.fromkeys(f"{row['method']}, {row['point']}" for row in rows if row.get("reason") == why)
        lines.append(f"* failed: {'; '.join(where)}: {why}")
    counts = {len(group.rows) for group in found}
    lines += ["* not all points have the same videos: it has not been run to its end"] if len(counts) > 1 else []
    for remark in dict.fromkeys(remark for row in rows for remark in row.get("remarks", ())):
        where = dict.fromkeys(
            f"{row['method']} {row['point']}".strip() for row in rows if remark in row.get("remarks", ())
        )
        lines.append(f"* {remark} ({', '.join(where)})")
    if found and all(group.mean("lpips") is None and group.mean("ssim") is not None for group in found):
        lines.append("* LPIPS is not given: its weights are not installed; docs/quality.md says how to get them")
    if broken:
        lines.append(f"* {broken} line{'s' if broken > 1 else ''} of the log could not be read and went unused")
    return "\n".join(lines)


def _originals(found: Sequence[Group]) -> list[list[str]]:
    """The host alone; one line for every kind of video (a length)."""
    kinds: dict[str, Group] = {}
    for group in found:
        for video, row in group.originals.items():
            what = ", ".join(f"{value} {key.removeprefix('num_')}" for key, value in row["video"].items())
            kind = kinds.setdefault(what, Group((group.name[0], ORIGINAL, what), {}, {}, []))
            kind.rows[video] = kind.originals[video] = row
    return [[*_row(kind)[: HEAD.index("PSNR")], "", "", "", "", ""] for kind in kinds.values()]


def _row(group: Group) -> list[str]:
    cells = [*group.name[1:], str(len(group.rows))]
    for key in ("seconds", "dit"):
        cells += [_text(group.mean(key), 2), _times(group.times(key))]
    cells.append(_times(group.ratio))
    forwards = group.mean("forwards")
    cells.append("" if forwards is None else f"{forwards.mean:.0f}")
    kept = group.mean("bytes")
    cells.append("" if kept is None or group.name[1] == ORIGINAL else f"{kept.mean / 1e6:.1f}")
    peaks = [row.get("memory") or row.get("rss") for row in group.rows.values()]
    known = [peak for peak in peaks if peak]
    cells.append(f"{max(known) / 1e6:.0f}" if known else "")
    cells += ["" if (mean := group.mean(key)) is None else mean.text(places) for key, places in PLACES.items()]
    worst = group.worst if group.name[1] != ORIGINAL else {}
    second = "lpips" if "lpips" in worst else "ssim"
    told = [f"{worst[key]:.{PLACES[key]}f}" for key in ("psnr", second) if key in worst]
    return [*cells, " / ".join(told), _failures(group)]


def _text(mean: Mean | None, places: int) -> str:
    return "" if mean is None else f"{mean.mean:.{places}f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _failures(group: Group) -> str:
    told = [f"{count} {fault}" for fault, count in group.faults.items()]
    told += [f"{len(group.failed)} with an error"] if group.failed else []
    return ", ".join(told) or "0"
