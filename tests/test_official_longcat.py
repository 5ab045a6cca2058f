"""The official LongCat-Video repository, unmodified, on a CPU (skipped with a reason where there is no clone)."""

from __future__ import annotations

import official
import pytest
from official_longcat import SUBJECTS


@pytest.fixture(scope="module")
def results(upstream, run_python):
    clone = upstream("LongCat-Video")
    return official.results(run_python, "official_longcat.py", clone, "laws", "distilled")


@official.each_law(SUBJECTS)
def test_law(results, proof):
    results.law(*proof)


def test_distilled_generations_run_unpatched_and_the_reason_is_told(results):
    found = results["distilled"]
    if found["absent"]:
        pytest.skip(found["absent"])
    assert found["equal"] and found["status"] == "not-applied" and "distil" in found["reasons"][0]
