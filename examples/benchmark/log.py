"""The log of a suite: one JSON line a run, added to as runs end, read back whatever an interruption left."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import hosts
from .points import Job, Point

OK, FAILED, UNAVAILABLE = "ok", "failed", "unavailable"
KEY = ("host", "method", "point", "prompt", "seed", "options")
KIND = ("host", "method", "point", "options")

Row = dict[str, Any]


class Log:
    """The rows of a file by key, the newest of each. `broken`: lines that are none, left by an interruption."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.broken = path, {}, 0
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._cut = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self.rows[tuple(row[name] for name in KEY)] = row
            except (ValueError, KeyError, TypeError):
                self.broken += bool(line.strip())

    def made(self, key: tuple[Any, ...]) -> bool:
        """Whether the run needs not be made again. One that failed may do better now."""
        return key in self.rows and self.rows[key]["status"] == OK

    def of(self, points: Iterable[Point]) -> tuple[list[Row], int]:
        """The rows of these points as they are now, and how many others there are (other settings, other weights)."""
        now = {Job(point, "", 0).kind(hosts.fingerprint()) for point in points}
        rows = [row for row in self.rows.values() if tuple(row[name] for name in KIND) in now]
        return rows, len(self.rows) - len(rows)

    def add(self, row: Row) -> None:
        """Write the row down, unless the newest of its key says the same failure."""
        key = tuple(row[name] for name in KEY)
        before = self.rows.get(key)
        if before is not None and row["status"] != OK and before.get("reason") == row.get("reason"):
            return
        self.rows[key] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if self._cut else "") + json.dumps(row) + "\n")
        self._cut = False
