"""What a skipped iteration costs: python examples/studies/overhead.py [--threads 1].

Two generations of the demo with the most skips the settings allow; the second one, whose signal is already traced, is
told. `skipped` is our own time in iterations that ran no forward (the first after a forward also measures the new
velocities), `recomputed` in those that did, each by CPU time of this thread and by wall clock. Then, at 5 times less
work, `taken again`: the steps that a group of latent frames at one noise level takes again, by how many they are.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from statistics import median

from trial import ALWAYS


def replays(pipe) -> dict[int, list[float]]:
    """{steps: CPU milliseconds of every group of latent frames that took so many again}."""
    import scope_patch
    from demo_model import pipeline
    from scope_patch.patch.replay import SolverReplays

    again, spent = SolverReplays._again, defaultdict(float)

    def timed(self, step, track, anchor, velocity, iteration, slot):
        begin = time.thread_time()
        try:
            return again(self, step, track, anchor, velocity, iteration, slot)
        finally:
            group = float(self.schedule.noise_levels[iteration, slot])
            spent[iteration - anchor.iteration - 1, iteration, group] += 1000 * (time.thread_time() - begin)

    SolverReplays._again = timed
    try:
        with scope_patch.patched(pipe, target_speedup=5, strict=True):
            pipeline.sample(pipe, "a red disc and a blue square")
    finally:
        SolverReplays._again = again
    found = defaultdict(list)
    for (steps, _, _), milliseconds in spent.items():
        found[steps].append(milliseconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    import torch

    import scope_patch
    from benchmark import hosts
    from benchmark.watch import Timed
    from demo_model import pipeline

    torch.set_num_threads(args.threads)
    pipe = hosts.build("demo")
    with Timed() as timed, scope_patch.patched(pipe, **ALWAYS, strict=True) as run:
        for _ in range(2):
            timed.clear()
            told = {"callback_on_step_end": timed.callback, "callback_on_step_end_tensor_inputs": []}
            pipeline.sample(pipe, "a red disc and a blue square", **told)
    generation = run.report["generations"][-1]
    modes = generation["segments"][0]["modes"]
    for name, letters in (("skipped", "CP"), ("recomputed", "R")):
        for k, clock in ((1, "CPU"), (2, "wall")):
            sums = timed.milliseconds(modes, letters, k)
            print(f"{name}: {len(sums)} iterations, {clock} ms median {median(sums):.3f}, most {max(sums):.3f}")
    for steps, each in sorted(replays(pipe).items()):
        print(f"taken again: {steps} steps, {len(each)} groups, CPU ms median {median(each):.2f}, most {max(each):.2f}")
    print(f"velocities kept: {generation['history_bytes_peak'] / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
