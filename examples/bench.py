"""The suites of docs/benchmark.md, on small models of ours: python examples/bench.py SUITE [--prompts N] [--seeds M].

The harness, its log and its table are those of `python -m scope_patch bench`; what is here is data. Every run goes
into OUT/runs.jsonl as it ends, and is not made again: stop it whenever you like, and go on with the same command. At
the end, or with --tables-only at any time, OUT/SUITE.md and, where the suite has one, OUT/SUITE.png are written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchmark.hosts import DEMO, HOSTS
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
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument(
        "--carry",
        type=Path,
        metavar="LOG",
        help="take the runs of another version of our code over, whose hash they keep",
    )
    parser.add_argument(
        "--anew", nargs="+", default=(), metavar="METHOD", help="with --carry: not those that have changed since"
    )
    parser.add_argument("--tables-only", action="store_true", help="table and figure of the runs that are there")
    args = parser.parse_args(argv)
    suite = SUITES[args.suite]
    methods = dict.fromkeys(point.method for point in suite.points)
    for name in args.only or ():
        if name not in methods:
            parser.error(f"the suite {args.suite} has no method {name!r}; it has: {', '.join(map(repr, methods))}")

    from benchmark.demo import Demo
    from scope_patch.tuning.harness import at_work

    names = frozenset(point.host for point in suite.points)
    filmed = HOSTS[suite.points[0].host or DEMO].filmed
    maker = Demo(args.out, names, args.threads)
    with at_work(maker, args.out, previews=False) as harness:
        if args.carry:
            carry(args.carry, harness.log, [p for p in suite.points if p.method not in args.anew], maker.fingerprint)
        points = [point for point in suite.points if not args.only or point.method in args.only]
        try:
            cases = videos(args.prompts or suite.prompts, args.seeds or suite.seeds, filmed)
            harness.run_all(points, cases if not args.tables_only else [])
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return 130
        finally:
            write(args.suite, harness, args.out)
    return 0


def carry(path: Path, log, points, fingerprint: str) -> None:
    """Add the rows of a log that are of these points, or of their originals, and that are not known yet."""
    from scope_patch.tuning.points import KEY, Job, Log

    known = {(each.host, each.method, each.name, str(each.video)): each for p in points for each in (p, p.original)}
    for row in Log(path).rows.values():
        point = known.get((row["host"], row["method"], row["point"], str(row["video"])))
        if point is not None:
            key = Job(point, row["prompt"], row["seed"]).key(fingerprint)
            if key not in log.rows:
                log.add({**row, **dict(zip(KEY, key, strict=True))})


def write(name: str, harness, folder: Path) -> None:
    """The table and the figure of what the log has."""
    from benchmark.figures import figure
    from scope_patch.tuning import results

    suite = SUITES[name]
    told = results.text(f"python examples/bench.py {name}", harness, suite.points)
    told = "\n\n".join([f"# {name}: {suite.about}", told.strip(), *([suite.notes] if suite.notes else [])]) + "\n"
    (folder / f"{name}.md").write_text(told, encoding="utf-8")
    print(told)
    drawn = figure(suite.about, suite.axis, results.known(harness, suite.points)[1]) if suite.figure else None
    if drawn is not None:
        (folder / f"{name}.png").write_bytes(drawn)


if __name__ == "__main__":
    raise SystemExit(main())
