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
    from benchmark.watch import no_waiting
    from demo_model import pipeline

    pipe = pipeline.build_pipeline().to("cuda")
    with no_waiting() as watched:
        for predictor in ("auto", "taylor2", "hold"):
            settings = {"cache_threshold": 0.0, "predict_threshold": 1e9, "predictor": predictor, "strict": True}
            with scope_patch.patched(pipe, **settings) as run:
                pipeline.sample(pipe, "a red disc and a blue square")
            forwards = run.report["generations"][0]["forwards"]
            print(f"{predictor}: {forwards['skipped']} of {forwards['baseline']} forwards skipped, no wait of ours")
    print(f"{watched[0]} entries into our code were watched")


if __name__ == "__main__":
    main()
