"""Many generations in one process: neither memory nor time a generation grows, and nothing of ours piles up."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time

import psutil
import pytest
import torch
from hosts import ALWAYS_PREDICT, fake_magi, fake_pipeline, generate, tiny_pipeline

import scope_patch
from scope_patch.report.record import FIRST_KEPT, LAST_KEPT, GenerationRecord, Run, Segment
from scope_patch.settings import Settings

MANY, EDGE = 200, 50
WARM_UP = 200  # until then the allocator's arenas grow by some 10 MB, in steps, and never again
LONGEST_SLOWDOWN = 1.25
"""Of the median; the machine has other work."""
MOST_GROWTH = 4e6
"""Bytes of resident memory over the last 100 generations; one generation's velocities have 0.1 to 0.6 MB."""


def official():
    pipe = fake_pipeline()
    return pipe, lambda: pipe("a disc", num_frames=10, num_inference_steps=8, ar_step=2)


def diffusers():
    pipe = tiny_pipeline()
    return pipe, lambda: generate(pipe, num_frames=33, num_inference_steps=8, ar_step=2)


def magi():
    tiny = fake_magi()
    model = tiny.make_model(num_frames=48)
    return model, lambda: tiny.generate(model)


HOSTS = {"official": official, "diffusers": diffusers, "magi": magi}


def tensors():
    """Live tensors, also those that only a cycle keeps."""
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def containers():
    """module.name -> length, of everything in our modules that can pile something up."""
    return {
        f"{name}.{key}": len(value)
        for name, module in sorted(sys.modules.items())
        if name.startswith("scope_patch")
        for key, value in vars(module).items()
        if not key.startswith("__") and isinstance(value, dict | list | set)
    } | {
        f"{name}: {part}": len(getattr(binding, part))
        for name, binding in scope_patch.patch.attach.bindings().items()
        for part in ("requests", "bound", "refused", "_parameters")
    }


def one(target, make, path, once):
    """A function that makes one generation, patched once for all or each time anew."""
    settings = {**ALWAYS_PREDICT, "report": str(path), "strict": True}
    if once:
        handle = scope_patch.apply(target, **settings)
        return make, handle

    def anew():
        with scope_patch.patched(target, **settings):
            make()

    return anew, None


@pytest.mark.parametrize("once", [True, False], ids=["patched once", "patched each time"])
@pytest.mark.parametrize("host", ["official", "magi"])
def test_nothing_of_ours_piles_up(host, once, tmp_path):
    target, make = HOSTS[host]()
    run, handle = one(target, make, tmp_path / "run.json", once)
    for _ in range(4):  # what tracing left behind goes late
        run()
    before = tensors(), containers()
    for _ in range(6):
        run()
    after = tensors(), containers()
    assert after[0] <= before[0] and after[1] == before[1]
    if handle is not None:
        assert len(handle.report["generations"]) == 10
        handle.remove()


@pytest.mark.long
@pytest.mark.parametrize("once", ["patched once", "patched each time"])
@pytest.mark.parametrize("host", HOSTS)
def test_two_hundred_generations(host, once, run_python, tmp_path):
    """In a process of its own: pytest keeps what is logged, and grows."""
    done = run_python(__file__, host, once, tmp_path / "run.json", timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["tensors"][1] <= found["tensors"][0] and found["containers"][1] == found["containers"][0]
    assert found["seconds"][1] <= LONGEST_SLOWDOWN * found["seconds"][0]
    assert found["growth"] <= MOST_GROWTH
    if once == "patched once":
        assert found["kept"] == FIRST_KEPT + LAST_KEPT
        assert found["omitted"] == WARM_UP + MANY - FIRST_KEPT - LAST_KEPT


def soak(host, once, path):
    """The generations of the test above; one JSON line."""
    target, make = HOSTS[host]()
    run, handle = one(target, make, path, once == "patched once")
    process, seconds, resident, counted = psutil.Process(), [], [], []
    for k in range(WARM_UP + MANY):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
        resident.append(process.memory_info().rss)
        if k in (WARM_UP + LAST_KEPT, WARM_UP + MANY - 1):
            counted.append((tensors(), containers()))
    half = [statistics.median(part) for part in (resident[-120:-100], resident[-20:])]
    report = {} if handle is None else handle.report
    found = {
        # The fast ones: other work on the machine slows some of them down.
        "seconds": [statistics.quantiles(part, n=10)[0] for part in (seconds[WARM_UP:][:EDGE], seconds[-EDGE:])],
        "growth": half[1] - half[0],
        "tensors": [each[0] for each in counted],
        "containers": [each[1] for each in counted],
        "kept": len(report.get("generations", ())),
        "omitted": report.get("omitted", {}).get("generations"),
    }
    print(json.dumps(found))


def finished(number):
    segment = Segment(2, modes=["R", "P"], reasons=["growth", "plan"], intervals=[(0, 1)] * 2, frames=1)
    segment.active, segment.slots_baseline, segment.slots_computed = [[0, 1]] * 2, 2, 1
    return GenerationRecord(
        segments=[segment], forwards_run=1, forwards_skipped=1, finished=True, signal=f"number {number}"
    )


def test_a_report_of_a_server_keeps_the_first_and_the_last_and_counts_all(tmp_path):
    from scope_patch.report import summary
    from scope_patch.report.read import read
    from scope_patch.report.summary import text

    run, sizes = Run(Settings(), hosts=["a host"]), []
    for number in range(1000):
        run.begin(finished(number))
        sizes.append(len(json.dumps(run.report)))
    kept = [generation.signal for generation in run.generations]
    assert kept == [f"number {number}" for number in [*range(FIRST_KEPT), *range(1000 - LAST_KEPT, 1000)]]
    assert sizes[-1] < 1.1 * sizes[40], "the report is written after every generation"
    told = "\n".join(summary.lines(run))
    assert "1000 generations" in told and "DiT forwards 2000 -> 1000, latent frames 2000 -> 1000" in told
    assert "(0 cached, 1000 predicted, 1000 recomputed)" in told
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run.report))
    assert run.report["schema"] == 2 and told in text(read(str(path)))


def test_what_is_under_way_is_never_summed_up():
    run, long = Run(Settings()), GenerationRecord()
    for number in range(FIRST_KEPT):
        run.begin(finished(number))
    run.begin(long)
    for number in range(100):
        run.begin(finished(number))
    assert any(generation is long for generation in run.generations)
    assert len(run.generations) == FIRST_KEPT + 1 + LAST_KEPT


if __name__ == "__main__":
    soak(*sys.argv[1:])
