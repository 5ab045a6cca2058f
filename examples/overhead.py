"""What a skipped iteration costs: python examples/overhead.py [--threads 1].

Two generations of the demo with the most skips the settings allow; the second one, whose signal is already traced, is
told. `skipped` is our own time in iterations that ran no forward (the first after a forward also measures the new
velocities), `recomputed` in those that did, each by CPU time of this thread and by wall clock.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)

    import torch

    import scope_patch
    from demo_model import pipeline
    from watch import Timed

    torch.set_num_threads(args.threads)
    pipe = pipeline.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    settings = {"cache_threshold": 0.0, "predict_threshold": 1e9}
    with Timed() as timed, scope_patch.patched(pipe, **settings, strict=True) as run:
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
