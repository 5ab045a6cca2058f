"""`tune` finds a speed-up for a user's own command, `bench` sets methods side by side: one harness, log and table.

Here are both commands: the same runs, searched for one target, or all of a list of methods. Their options are made
without torch, for which `--help` must not wait.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..settings import FILES, NAMES, Settings, resolve_with_origins, variable

if TYPE_CHECKING:
    from .commands import Command
    from .points import Case

CHOSEN = ("target_speedup", "preset", "cache_threshold", "predict_threshold", "policy", "report", "calibrate")
"""Settings of `run` that `tune` and `bench` choose themselves."""


def add_options(parser: argparse.ArgumentParser, bench: bool) -> None:
    """The options of `tune`, or of `bench`, beside those of `run`."""
    parser.add_argument("--folder", type=Path, default=Path("scope_tune"), help="where all goes (default: %(default)s)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt a line, for {prompt} in the command")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1 for {seed} in the command (default: 1)")
    parser.add_argument("--steps", metavar="N", help="what {steps} in the command usually is")
    if bench:
        methods = ["scope:2", "scope:3", "scope:4", "scope:5"]
        words = "scope:3 scope:fast scope-thresholds:0.18,0.42 teacache:0.1 taylorseer:4 flowcache:0.15 steps:10 ..."
        parser.add_argument("--methods", nargs="+", metavar="METHOD", default=methods, help=words)
        return
    bounds = parser.add_argument_group("bounds", "in the mean over all videos; LPIPS 0.05 unless one is given")
    bounds.add_argument("--psnr", type=float, metavar="DB", help="at least")
    bounds.add_argument("--ssim", type=float, metavar="X", help="at least")
    bounds.add_argument("--lpips", type=float, metavar="X", help="at most")
    bounds.add_argument("--seconds", type=float, metavar="S", help="at most, for the pipeline's calls in one command")
    parser.add_argument("--budget", metavar="TIME", help="start no further run after so long: 90, 20m, 2h")


def run(options: argparse.Namespace, words: list[str]) -> int:
    """`tune` or `bench`: 1 where no target keeps the bounds, 130 if stopped. Raises UsageError; what was made stays."""
    from ..catalogue import usable_hosts  # torch with what follows
    from ..launch import check
    from . import results
    from .commands import Command, flags
    from .harness import at_work, check_packages
    from .points import parse
    from .search import Bounds, find

    settings = _given(options)
    points = [parse(text).under(settings) for text in options.methods] if options.action == "bench" else []
    every = [Settings(**each) for each in [settings, *(point.settings for point in points)]]
    for each in every:  # what cannot be used is said before the first run
        check(each)
    for named in {each.registry for each in every} - {None}:
        usable_hosts(named)
    check_packages()
    command = Command(words, options.steps, [settings[name] for name in FILES if name in settings])
    cases = _cases(command, options.prompts, options.seeds)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way to say Ctrl-C
    begun = f"python -m scope_patch {options.action} ... -- {command.name}"
    answer = None
    with at_work(command, options.folder) as harness:
        command.tick = harness.progress.tick
        try:
            if options.action == "tune":
                bounds = Bounds(options.psnr, options.ssim, options.lpips, options.seconds)
                answer = find(harness, cases, bounds, settings, time.monotonic() + _seconds(options.budget))
            else:
                harness.run_all(points, cases)
        except KeyboardInterrupt:
            kept = f"{harness.made} runs were begun, and {options.folder} keeps those that ended"
            print(f"scope_patch: stopped: {kept}; the same command goes on from here", file=sys.stderr)
            return 130
    if answer is None:
        print(results.write(options.folder, harness, points, begun))
        return 0
    line = ""
    if answer.target is not None:
        chosen = shlex.join(flags({"target_speedup": answer.target, **settings}))
        example = shlex.join(command.filled("out", *cases[0], command.steps))
        line = f"python -m scope_patch run {chosen} -- {example}"
    print(results.write(options.folder, harness, answer.points, begun, answer.words, line, answer.target))
    return int(answer.target is None)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of all runs, by options or variables. Raises UsageError for a variable that would decide for us."""
    flags = {name: getattr(options, name, None) for name in NAMES if name not in CHOSEN}
    settings, origins = resolve_with_origins(flags, os.environ)
    given = {name: getattr(settings, name) for name in NAMES if origins[name] != "default"}
    for name in CHOSEN:
        if name in given:
            raise UsageError(f"{options.action} says itself what {variable(name)} says; unset it")
    return given


def _cases(command: Command, prompts: Path | None, seeds: int | None) -> list[Case]:
    """(prompt, seed) of every video. Raises UsageError where the command has no use for them, or they are missing."""
    if prompts is None and command.has("{prompt}"):
        raise UsageError("the command has {prompt}: give its lines by --prompts FILE")
    if prompts is not None and not command.has("{prompt}"):
        raise UsageError("--prompts was given, but the command has no {prompt}: write it where a prompt stands")
    if seeds is not None and not command.has("{seed}"):
        raise UsageError("--seeds was given, but the command has no {seed}: write it where the seed stands")
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds is {seeds}; give 1 or more")
    lines = [""] if prompts is None else read_prompts(prompts)
    return [(line, seed) for seed in range(seeds or 1) for line in lines]


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that have something in them, each once. Raises UsageError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts {path} cannot be read ({error}); give a text file, a prompt a line") from None
    found = list(dict.fromkeys(line for line in lines if line))
    if not found:
        raise UsageError(f"--prompts {path} has no prompt in it; write one a line")
    return found


def _seconds(text: str | None) -> float:
    """`90`, `20m`, `2h`. Raises UsageError."""
    if text is None:
        return float("inf")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if found is None or not float(found[1]):
        raise UsageError(f"--budget {text} is no time; write one as 90, 20m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
