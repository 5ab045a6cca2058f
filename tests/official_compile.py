"""Compile the blocks of the unmodified official DiT, unpatched and patched; a script, started by a test.

python official_compile.py CHECKOUT     one JSON line a case: how often was compiled, and why a graph broke
"""

from __future__ import annotations

import json
import sys
import warnings

OPTIONS = {"num_frames": 45, "base_num_frames": 45, "num_inference_steps": 6, "causal_block_size": 4}


def compilations(official, upstream, dynamic, settings):
    """(frames that were compiled, reasons of graph breaks, report of the generation or None)"""
    import torch
    from torch._dynamo.testing import CompileCounter
    from torch._dynamo.utils import counters

    import scope_patch

    torch._dynamo.reset()
    counters.clear()
    pipe, counter = official.build(upstream), CompileCounter()
    for block in pipe.transformer.blocks:
        block.compile(backend=counter, dynamic=dynamic)
    if settings is None:
        official.generate(pipe, **OPTIONS)
        return counter.frame_count, sorted(counters["graph_break"]), None
    with scope_patch.patched(pipe, **settings, strict=True) as run:
        official.generate(pipe, **OPTIONS)
    return counter.frame_count, sorted(counters["graph_break"]), run.report["generations"][0]


def main():
    import official_skyreels as official
    import torch

    official.torch = torch
    torch.set_num_threads(1)
    upstream = official.import_upstream(sys.argv[1])
    asked = {**official.PREDICT, "selective": True}  # several widths, under full attention too
    for dynamic in (False, None):
        unpatched, own, _ = compilations(official, upstream, dynamic, None)
        patched, breaks, generation = compilations(official, upstream, dynamic, asked)
        (segment,) = generation["segments"]
        widths = {end - start for start, end in segment["intervals"]}
        told = {"dynamic": dynamic, "unpatched": unpatched, "patched": patched, "widths": len(widths)}
        told |= {"own breaks": own, "breaks": breaks, "skipped": generation["forwards"]["skipped"]}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.dont_write_bytecode = True  # leave no __pycache__ in upstream's checkout
    warnings.simplefilter("ignore")
    main()
