"""The log: one JSON line a run, added to as runs end, read back whatever an interruption left; one writer at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..compare.read import extra
from ..errors import UsageError
from .points import Job, Point

OK, FAILED, UNAVAILABLE = "ok", "failed", "unavailable"
KEY = ("host", "method", "point", "prompt", "seed", "options")
KIND = ("host", "method", "point", "options")
NAME = "runs.jsonl"

Row = dict[str, Any]


class Log:
    """The rows of a file by key, the newest of each. `broken`: lines that are none, left by an interruption."""

    def __init__(self, path: Path) -> None:
        self.path, self.broken = path, 0
        self.rows: dict[tuple[Any, ...], Row] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._cut = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self.rows[tuple(row[name] for name in KEY)] = row
            except (ValueError, KeyError, TypeError):
                self.broken += bool(line.strip())

    def found(self, job: Job, fingerprint: str) -> Row | None:
        """The row of a run that went well. One that failed may do better now."""
        row = self.rows.get(job.key(fingerprint))
        return row if row is not None and row["status"] == OK else None

    def of(self, points: Iterable[Point], fingerprint: str) -> list[Row]:
        """The rows of these points and of their originals, as they are now: not of other settings or versions."""
        wanted = {
            (each.host, each.method, each.name, Job(each).options(fingerprint))
            for point in points
            for each in (point, point.original)
        }
        return [row for row in self.rows.values() if tuple(row[name] for name in KIND) in wanted]

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


@contextmanager
def opened(folder: Path) -> Iterator[Log]:
    """The log of a folder, which is nobody else's meanwhile. Raises UsageError where it is, or cannot be written."""
    filelock = extra("filelock", "filelock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise UsageError(
            f"another process is writing to {folder}; wait for its end, or give another place by --folder"
        ) from None
    except OSError as error:
        raise UsageError(f"--folder {folder} cannot be written ({error.strerror}); give another one") from error
    try:
        yield Log(folder / NAME)
    finally:
        lock.release()
