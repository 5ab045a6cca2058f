"""Does it pay to forward the clean chunk alone? python examples/magi_lead.py [--cfg 1]

At the first step of a stage MAGI-1 forwards the chunk just finished along with the window, and that alone writes its
clean keys and values. This command tries the cheap form where no new chunk enters (three steps of 208): the clean chunk
forwarded alone, the velocities of the others from the history. Numbers as in magi.py.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from magi import measure
from magi_cpu import host


@contextmanager
def clean_chunk_alone():
    """While it lasts, a lead forces nothing, histories live on, and a forward of the lead alone is one of a prefix."""

    from scope_patch.method.fold import Fold
    from scope_patch.method.schedule import Schedule
    from scope_patch.patch.hooks import bindings

    architecture = bindings()["magi-1"].architecture
    stepwise, forced, turned = architecture.stepwise, Fold.forced, Schedule.context_changed

    def narrow(arguments, first, last):
        alone = stepwise.narrow(arguments, first, last)
        if arguments["fwd_extra_1st_chunk"] and last == 1:
            alone.update(fwd_extra_1st_chunk=False, extract_prefix_video_feature=True, distill_nearly_clean_chunk=False)
        return alone

    Fold.forced = lambda self, iteration: False
    Schedule.context_changed = lambda self, iteration, before: turned(self, iteration, before) and self.grew(iteration)
    object.__setattr__(architecture, "stepwise", replace(stepwise, narrow=narrow))
    try:
        yield
    finally:
        Fold.forced, Schedule.context_changed = forced, turned
        object.__setattr__(architecture, "stepwise", stepwise)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", type=int, choices=(1, 3), default=1)
    parser.add_argument("--num-frames", type=int, default=240)
    args = parser.parse_args(argv)
    options = host.Options(num_frames=args.num_frames, steps=64, cfg=args.cfg)
    host.prepare()
    model = host.build(options)
    reference = host.generate(model, options)
    print("| threshold | window recomputed: latent frames | error | clean chunk alone: latent frames | error |")
    print("|---|---|---|---|---|", flush=True)
    for threshold in (0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.05, 0.04):
        settings = {"cache_threshold": 0, "predict_threshold": threshold, "per_chunk": False}
        *_, share, error = measure(model, options, reference, **settings)
        with clean_chunk_alone():
            *_, cheap_share, cheap_error = measure(model, options, reference, **settings)
        print(f"| {threshold} | {share:.1%} | {error:.4f} | {cheap_share:.1%} | {cheap_error:.4f} |", flush=True)


if __name__ == "__main__":
    main()
