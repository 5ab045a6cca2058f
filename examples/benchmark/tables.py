"""The tables of a suite, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from . import check
from .log import Row
from .markdown import plus_minus, table
from .paper import table_1
from .points import OURS, Suite
from .sums import Group, groups, unavailable

HEAD = (
    "method", "point", "n", "DiT FLOPs", "forwards", "seconds", "speed-up", "more MB", "PSNR", "median",
    "SSIM", "median", "LPIPS", "failures",
)  # fmt: skip
READING = (
    "DiT FLOPs: how many times fewer than the original's, counted in the run by hooks: matrix products, and "
    "attention where its mask lets it through (with the masked pairs, which torch computes too, narrower forwards "
    "would save more). Seconds and speed-up: CPU time of the pipeline's call, without the VAE (the log has the "
    "clock's too). More MB: velocities kept, the peak of a run; a process's resident memory only ever grows, so "
    "it cannot tell runs apart. PSNR in dB on 8-bit frames, 100 where all are equal. ±: standard error of the "
    "mean over videos. PSNR has a long tail (a shape that turns out another costs 20 dB), so medians stand beside "
    "the means. Failures: black, frozen or non-finite output where the original is sound, or an error."
)


def text(name: str, suite: Suite, rows: Iterable[Row], broken: int = 0, old: int = 0) -> str:
    """All that is told of a suite. `broken`, `old`: lines of its log that cannot be read, or are of other settings."""
    rows = list(rows)
    found = ordered(suite, rows)
    parts = [f"# {name}: {suite.about}"]
    if found:
        parts += [_made(name, found, rows), *_results(found)]
        heads = ("## Table 1: slow and fast", f"## Against {OURS} at equal DiT FLOPs")
        for head, told in zip(heads, (table_1(found), check.table(found)), strict=True):
            parts += [head, told] if told else []
    else:
        parts.append("No run has ended well yet.")
    parts += [suite.notes] if suite.notes else []
    parts += _troubles(found, rows, broken, old)
    return "\n\n".join(parts) + "\n"


def ordered(suite: Suite, rows: Iterable[Row]) -> list[Group]:
    """The points of a suite as it lists them."""
    return groups(rows, [(point.host, point.method, point.name) for point in suite.points])


def _made(name: str, found: list[Group], rows: list[Row]) -> str:
    videos = {video for group in found for video in group.rows}
    dates = sorted({row["date"] for row in rows})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machines = "; ".join(sorted({row["machine"] for row in rows}))
    codes = sorted({row["code"] for row in rows})
    of_code = f"code {codes[0]}" if len(codes) == 1 else f"of {len(codes)} versions of the code: {', '.join(codes)}"
    of_prompts = f"n = {len(videos)} videos, of {len({prompt for prompt, _ in videos})} prompts"
    return f"`python examples/bench.py {name}`: {of_prompts}; {machines}; {span}; {of_code}."


def _results(found: list[Group]) -> list[str]:
    """One table a host, and how to read them."""
    parts = []
    hosts = list(dict.fromkeys(group.name[0] for group in found))
    for host in hosts:
        mine = [group for group in found if group.name[0] == host]
        title = [f"## {host}"] if len(hosts) > 1 else []
        parts += [*title, table(HEAD, [*_originals(mine), *map(_row, mine)])]
    return [*parts, READING]


def _originals(found: list[Group]) -> list[list[str]]:
    """The unpatched host; one line for every kind of video (a length)."""
    kinds: dict[str, dict] = {}
    for group in found:
        for video, row in group.rows.items():
            what = ", ".join(f"{value} {key.removeprefix('num_')}" for key, value in row["video"].items())
            kinds.setdefault(what, {})[video] = row["reference"]
    lines = []
    for what, held in kinds.items():
        forwards, seconds = (fmean(each[key] for each in held.values()) for key in ("forwards", "cpu"))
        lines.append(["original", what, str(len(held)), "1.00", f"{forwards:.0f}", f"{seconds:.2f}", "1.00", "0"])
        lines[-1] += [""] * (len(HEAD) - len(lines[-1]))
    return lines


def _row(group: Group) -> list[str]:
    psnr, ssim = group.mean("psnr"), group.mean("ssim")
    return [
        *group.name[1:],
        str(len(group.rows)),
        f"{group.ratio:.2f}",
        f"{fmean(group.values('forwards')):.0f}",
        f"{fmean(group.values('cpu')):.2f}",
        f"{group.speedup:.2f}",
        f"{fmean(group.values('bytes')) / 1e6:.2f}",
        plus_minus(psnr, 2),
        f"{psnr.median:.2f}",
        plus_minus(ssim, 4),
        f"{ssim.median:.4f}",
        plus_minus(group.mean("lpips"), 4),
        _failures(group),
    ]


def _failures(group: Group) -> str:
    told = [f"{count} {fault}" for fault, count in group.faults.items()]
    told += [f"{len(group.failed)} with an error"] if group.failed else []
    return ", ".join(told) or "0"


def _troubles(found: list[Group], rows: list[Row], broken: int, old: int) -> list[str]:
    """What is not in the tables, and why."""
    lines = [f"* not available here: {'; '.join(points)}: {why}" for why, points in unavailable(rows).items()]
    for why in dict.fromkeys(row["reason"] for row in rows if row["status"] == "failed"):
        where = dict.fromkeys(f"{row['method']}, {row['point']}" for row in rows if row.get("reason") == why)
        lines.append(f"* failed: {'; '.join(where)}: {why}")
    counts = {len(group.rows) for group in found}
    lines += ["* not all points have the same videos: the suite has not been run to its end"] if len(counts) > 1 else []
    if found and all(group.mean("lpips") is None for group in found):
        lines.append("* LPIPS is not given: its weights are not installed; docs/quality.md says how to get them")
    if broken:
        lines.append(f"* {broken} line{'s' if broken > 1 else ''} of the log could not be read and went unused")
    if old:
        lines.append(
            f"* {old} run{'s' if old > 1 else ''} of the log are of other settings or weights than the suite's now"
        )
    return ["## Left out", "\n".join(lines)] if lines else []
