"""Does a host ever wait for the GPU because of us? python examples/sync.py, on a machine with CUDA.

Generates a video with the demo on the GPU. In our own frames torch raises at whatever would wait for the device, from
the plan (made at the first DiT call) to the end of the loop; the host may wait as it likes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    import torch

    if not torch.cuda.is_available():
        print("no CUDA here: nothing was checked (tests/test_no_sync.py checks what a CPU can show)")
        return

    import scope_patch
    from demo_model import pipeline
    from scope_patch.patch.generation import Generation
    from scope_patch.patch.guard import Guard

    guard, close = Guard.__call__, Generation.close
    watched = [0]

    def strictly(self, generation, *arguments):
        session = generation.session if generation is not None else None
        planned = session is not None and session.decider is not None
        watched[0] += planned
        torch.cuda.set_sync_debug_mode("error" if planned else "default")
        try:
            return guard(self, generation, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def after_the_loop(self, error):
        torch.cuda.set_sync_debug_mode("default")  # the counts of the guards are read here
        close(self, error)

    Guard.__call__, Generation.close = strictly, after_the_loop  # every entry from the host into us passes the guard
    pipe = pipeline.build_pipeline().to("cuda")
    for predictor in ("auto", "taylor2", "hold"):
        with scope_patch.patched(
            pipe, cache_threshold=0.0, predict_threshold=1e9, predictor=predictor, strict=True
        ) as run:
            pipeline.sample(pipe, "a red disc and a blue square")
        forwards = run.report["generations"][0]["forwards"]
        print(f"{predictor}: {forwards['skipped']} of {forwards['baseline']} forwards skipped, no wait of ours")
    print(f"{watched[0]} entries into our code were watched")


if __name__ == "__main__":
    main()
