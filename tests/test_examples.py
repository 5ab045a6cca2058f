"""The measuring scripts measure: FLOPs by widths equal FLOPs counted over a whole run."""

from __future__ import annotations

import sys

from conftest import ROOT
from hosts import ALWAYS_PREDICT
from torch.utils.flop_counter import FlopCounterMode

import scope_patch

sys.path.insert(0, str(ROOT / "examples"))


def test_flops_read_off_the_report_equal_those_counted():
    from demo_model import pipeline
    from measures import Flops

    pipe = pipeline.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    counted = []
    for settings in (ALWAYS_PREDICT, {"policy": "never"}):
        with scope_patch.patched(pipe, **settings, strict=True) as run, FlopCounterMode(display=False) as counter:
            pipeline.sample(pipe, "a red disc", num_frames=37, num_inference_steps=10, ar_step=5)
        counted.append(counter.get_total_flops())
        generation = run.report["generations"][0]
        ran, whole = Flops(pipe).of(generation)
        text = counted[-1] - ran  # nothing but the DiT has FLOPs, once the signal is traced
        assert 0 <= text < 0.01 * ran
    assert whole == ran
