"""What a skipped iteration costs: python examples/studies/overhead.py [--threads 1].

Two generations of the demo with the most skips the settings allow; the second one, whose signal is already traced, is
told. `skipped` is our own time in iterations that ran no forward (the first after a forward also measures the new
velocities), `recomputed` in those that did, each by CPU time of this thread and by wall clock.
"""

from __future__ import annotations

import argparse
from statistics import median

from trial import ALWAYS


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
            pipeline.sample(pipe, "a red disc and a blue square", callback_on_step_end=timed.callback)
    generation = run.report["generations"][-1]
    modes = generation["segments"][0]["modes"]
    for name, letters in (("skipped", "CP"), ("recomputed", "R")):
        for k, clock in ((1, "CPU"), (2, "wall")):
            sums = timed.milliseconds(modes, letters, k)
            print(f"{name}: {len(sums)} iterations, {clock} ms median {median(sums):.3f}, most {max(sums):.3f}")
    print(f"velocities kept: {generation['history_bytes_peak'] / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
