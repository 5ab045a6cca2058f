"""Hosts that have changed: each mutation of a seam is handled, or refused with the check named; never a wrong video.

The table is drifts.py. Copies of hosts are mutated by their text and run in a process a host (drifting.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT
from drifts import MUTATIONS

SCRIPT = Path(__file__).parent / "drifting.py"
CLONES = {"official": "SkyReels-V2"}


@pytest.fixture(scope="module")
def found(run_python, tmp_path_factory, request):
    """host -> (name of a mutation -> what became of it under every setting)"""
    results = {}

    def of(host):
        if host not in results:
            clone = [str(request.getfixturevalue("upstream")(CLONES[host]))] if host in CLONES else []
            folder = tmp_path_factory.mktemp("drift")
            done = run_python(str(SCRIPT), host, str(folder), *clone, env={"PYTHONPATH": str(ROOT)}, timeout=300)
            assert done.returncode == 0, done.stderr[-3000:]
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            results[host] = {line["name"]: line for line in lines}
        return results[host]

    return of


MARKS = {"diffusers": [pytest.mark.long], "official": [pytest.mark.long, pytest.mark.upstream]}


@pytest.mark.parametrize(
    ("host", "mutation"),
    [
        pytest.param(host, mutation, marks=MARKS.get(host, []), id=f"{host}-{mutation.name}")
        for host, table in MUTATIONS.items()
        for mutation in table
    ],
)
def test_what_becomes_of_a_mutation(found, host, mutation):
    assert problems(found(host)[mutation.name], mutation.expected) == []


def problems(result, expected):
    """What is not as the table says."""
    verdict, _, words = expected.partition(": ")
    never, accelerated, whole = (result[name] for name in ("never", "accelerated", "whole"))
    wrong = [f"{name}: {told['error']}" for name, told in result.items() if name != "name" and told["error"]]
    if wrong:
        return wrong
    if not never["unpatched"]:
        wrong.append("never: not the unpatched host's bits")
    for name, told in (("accelerated", accelerated), ("whole", whole)):
        if verdict == "part":
            wrong += [f"{name}: {problem}" for problem in not_told(told, words)]
        elif verdict == "handled":
            wrong += [f"{name}: {problem}" for problem in not_handled(told)]
        else:
            # What was seen too late for the first of SCOPE's intervals is still the host's own under the host's.
            same = told["unpatched"] or (verdict == "late" and name == "accelerated")
            wrong += [f"{name}: {problem}" for problem in not_refused(told, words, same)]
    return wrong


def not_handled(told):
    if told["status"] != "applied" or not told["skipped"]:
        yield f"not accelerated: {told['reasons']} {told['guards']} {told['remarks']}"
    if told["reported"] != told["counted"]:
        yield f"reported {told['reported']}, counted {told['counted']} (forwards, latent frames)"
    if told["same host"] and not told["as before"]:
        yield "another video than that of the host as it was"
    if not told["error of it"] <= 3 * told["error before"] + 1e-3:
        yield f"error {told['error of it']}, but {told['error before']} on the host as it was"


def not_refused(told, words, same):
    if told["skipped"] or told["status"] == "applied":
        yield f"applied, {told['skipped']} skipped; guards {told['guards']}, remarks {told['remarks']}"
    if not any(words in reason for reason in told["reasons"]):
        yield f"{words!r} is in none of {told['reasons']}"
    if not same:
        yield "refused, but not the unpatched host's bits"


def not_told(told, words):
    """Accelerated up to where it was seen, and from there on the host's own."""
    if not any(words in reason for reason in told["reasons"]):
        yield f"{words!r} is in none of {told['reasons']}"
    if not told["error of it"] <= 2 * told["error before"]:
        yield f"error {told['error of it']}, but {told['error before']} on the host as it was"
