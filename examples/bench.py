"""Methods against one another on the demo model: python examples/bench.py SUITE [--prompts N] [--seeds M].

Every run goes into OUT/SUITE.jsonl as it ends, and is not made again: stop it whenever you like, and go on with the
same command. At the end, or with --tables-only at any time, OUT/SUITE.md and, where the suite has one, OUT/SUITE.png
are written. docs/benchmark.md says what the suites show.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchmark.prompts import PROMPTS, videos
from benchmark.suites import SUITES


def main(argv: list[str] | None = None) -> int:
    about = "\n".join(f"  {name:11} {suite.about}" for name, suite in SUITES.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"suites:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=SUITES, metavar="SUITE", help="one of those below")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder (default: %(default)s)")
    parser.add_argument("--prompts", type=int, choices=range(1, len(PROMPTS) + 1), metavar="N", help="default: suite's")
    parser.add_argument("--seeds", type=int, choices=range(1, 101), metavar="M", help="videos a prompt")
    parser.add_argument(
        "--only", nargs="+", metavar="METHOD", help="these methods of the suite; tables show all there is"
    )
    parser.add_argument("--threads", type=int, default=1, help="a process (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes; they disturb each other's times (default: 1)")
    parser.add_argument("--tables-only", action="store_true", help="tables and figure of the runs that are there")
    args = parser.parse_args(argv)
    suite = SUITES[args.suite]
    methods = dict.fromkeys(point.method for point in suite.points)
    for name in args.only or ():
        if name not in methods:
            parser.error(f"the suite {args.suite} has no method {name!r}; it has: {', '.join(map(repr, methods))}")

    from benchmark.log import Log

    log = Log(args.out / f"{args.suite}.jsonl")
    try:
        if not args.tables_only:
            from benchmark.runner import run

            points = [point for point in suite.points if not args.only or point.method in args.only]
            wanted = videos(args.prompts or suite.prompts, args.seeds or suite.seeds)
            made = run(points, wanted, log, args.out, args.threads, args.jobs)
            print(f"{made} runs were made; {log.path} has {len(log.rows)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        if log.rows:
            write(args.suite, log, args.out)
    return 0


def write(name: str, log, folder: Path) -> None:
    """The tables and the figure of what the log has."""
    from benchmark import figures, tables

    suite = SUITES[name]
    rows, old = log.of(suite.points)
    told = tables.text(name, suite, rows, log.broken, old)
    (folder / f"{name}.md").write_text(told, encoding="utf-8")
    print(told)
    drawn = figures.figure(suite, tables.ordered(suite, rows))
    if drawn is not None:
        (folder / f"{name}.png").write_bytes(drawn)


if __name__ == "__main__":
    raise SystemExit(main())
