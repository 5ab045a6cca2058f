"""What the scripts official_*.py print, for the tests that start them: one process a repository, as its import takes
longer than what it runs, and no two of them are wanted in one process with their stand-ins for CUDA."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import laws
import pytest
from conftest import ROOT
from hosting import Subject

HERE = Path(__file__).parent


def lines(done):
    """The JSON lines of a process that has ended well."""
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


class Results(Mapping):
    """case -> what the script says of it; `law` checks one of the laws."""

    def __init__(self, found: Iterable[dict]) -> None:
        found = list(found)
        self._cases = {line["case"]: line for line in found if line["case"] != "laws"}
        self._laws = {(line["subject"], line["law"], line["of"]): line for line in found if line["case"] == "laws"}

    def __getitem__(self, case):
        return self._cases[case]

    def __iter__(self):
        return iter(self._cases)

    def __len__(self):
        return len(self._cases)

    def law(self, *proof: str) -> None:
        line = self._laws[proof]
        if line["absent"]:
            pytest.skip(line["absent"])
        assert not line["problem"], line["problem"]


def results(run_python, script: str, clone: Path, *cases: str) -> Results:
    """All that is asked of a repository."""
    done = run_python(str(HERE / script), str(clone), *cases, env={"PYTHONPATH": str(ROOT)}, timeout=1200)
    return Results(lines(done))


def each_law(subjects: list[Subject]):
    """Parametrises a test over (subject, law, case)."""
    proofs = [(subject.name, law, case) for subject in subjects for law, case in laws.proofs(subject)]
    return pytest.mark.parametrize("proof", proofs, ids=[" - ".join(proof) for proof in proofs])
