"""Telling the user what was done: records, the JSON report, the closing summary; and the command `report RUN.json`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..errors import UsageError


def run(options: argparse.Namespace) -> int:
    """Write what was asked for, or print text. Raises UsageError: no report, or a file that cannot be written."""
    from .page import page, png  # this file is imported with every record: all the rest only here
    from .read import read
    from .summary import text

    report = read(options.run_json)
    asked = {name: path for name, path in (("--html", options.html), ("--png", options.png)) if path is not None}
    if not asked:
        print(text(report))
        return 0
    pictures: dict[str, bytes] = {}
    for name, path in asked.items():
        if os.path.isdir(path):
            raise UsageError(f"{name} {path} is a directory; give the name of a file")
        if os.path.realpath(path) in map(os.path.realpath, [options.run_json, *pictures]):
            raise UsageError(f"{name} {path} would overwrite the report, or the other picture; give another path")
        if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
            raise UsageError(f"{name} {path} cannot be written, because its directory does not exist; create it first")
        pictures[path] = page(report).encode() if name == "--html" else png(report)
    for path, content in pictures.items():  # all of them are made before the first file is touched
        try:
            Path(path).write_bytes(content)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}); give another path") from None
        print(f"{path}: {len(content) / 1000:.0f} kB")
    return 0
