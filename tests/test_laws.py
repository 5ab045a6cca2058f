"""The laws that hold for every host (laws.py), over all hosts that run in this process."""

from __future__ import annotations

import laws
import pytest
from hosting import framepack, magi, skyreels

SUBJECTS = {subject.name: subject for family in (skyreels, framepack, magi) for subject in family.SUBJECTS}
PROOFS = [(name, law, case) for name, subject in SUBJECTS.items() for law, case in laws.proofs(subject)]


@pytest.mark.parametrize(("name", "law", "case"), PROOFS, ids=[" - ".join(proof) for proof in PROOFS])
def test_law(name, law, case):
    try:
        laws.prove(SUBJECTS[name], law, case)
    except laws.AbsentError as reason:
        pytest.skip(str(reason))
