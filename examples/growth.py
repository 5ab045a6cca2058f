"""What to compute when new latent frames come under way: python examples/growth.py [--prompts 4] [--skips 2 3 4 5].

Three rules on the demo model, each with one recompute after every K skips in between:

    two    the DiT runs twice, so that the new latent frames have a slope (the paper's FLOPs need this rule)
    one    it runs once; the new frames repeat their velocity until the next recompute, the others are predicted
    new    it runs once on the new frames alone; the others are predicted there too (they lack nothing), and the new
           frames do not see them

The table gives DiT FLOPs saved against PSNR and SSIM to the unpatched video.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent))

BLOCK = 5
RULES = ("two", "one", "new")


class Growth:
    """Policy: recompute at growth (twice under the rule `two`) and after so many skips."""

    name, active = "growth", True
    rule = "two"

    def __init__(self, settings):
        self.most = settings.max_skip

    def initial(self):
        return 0

    def step(self, skips, observation):
        from scope_patch.method.decision import Decision, Mode

        if observation.grew:
            # One more than the horizon: the next one is due as well.
            return (self.most if self.rule == "two" else 0), Decision(Mode.RECOMPUTE, "growth")
        if skips >= self.most:
            return 0, Decision(Mode.RECOMPUTE, "horizon")
        return skips + 1, Decision(Mode.PREDICT, "plan")


class NewOnly:
    """Stands in front of the DiT's forward: at growth it forwards the newest block and predicts the others."""

    def __init__(self, model):
        from scope_patch.method import predictors

        self.model, self.forward, self.predictor = model, model.forward, predictors.create("auto")
        self.histories = {}

    def __enter__(self):
        self.model.forward = self
        return self

    def __exit__(self, *_):
        del self.model.forward

    def __call__(self, hidden_states, timestep, encoder_hidden_states, **more):
        from scope_patch.method.history import BranchHistory

        frames, levels = hidden_states.shape[2], timestep[0].double() / 1000
        history = self.histories.setdefault(id(encoder_hidden_states), BranchHistory(3))
        old = (0, frames - BLOCK)
        if not history.anchors or history.anchors[0].interval[1] == frames:
            out = self.forward(hidden_states, timestep, encoder_hidden_states, **more)
            history.record((0, frames), levels, out[0])
            return out
        part = hidden_states[:, :, -BLOCK:], timestep[:, -BLOCK:]
        new = self.forward(*part, encoder_hidden_states, **more)[0]
        weights = self.predictor.weights(levels[: old[1]], history.points(old))
        import torch

        whole = torch.cat([history.combine(old, weights), new], dim=2)
        history.record((0, frames), levels, whole)
        return (whole,)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--skips", type=int, nargs="+", default=[2, 3, 4, 5])
    args = parser.parse_args(argv)

    import contextlib

    import scope_patch
    from demo_model import pipeline
    from evaluate import PROMPTS
    from scope_patch.compare.metrics import psnr, ssim
    from scope_patch.method import policies

    policies.BUILT_IN["growth"] = Growth
    pipe = pipeline.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    seeds = list(enumerate(PROMPTS[: args.prompts]))
    references = [pipeline.decode(pipe, pipeline.sample(pipe, prompt, seed=seed))[0] for seed, prompt in seeds]
    print(
        "| at growth | skips in a row | latent frames forwarded | times less | PSNR | SSIM |\n|---|---|---|---|---|---|"
    )
    for rule in RULES:
        Growth.rule = rule
        for most in args.skips:
            found = []
            for (seed, prompt), reference in zip(seeds, references, strict=True):
                alone = NewOnly(pipe.transformer) if rule == "new" else contextlib.nullcontext()
                with scope_patch.patched(pipe, policy="growth", max_skip=most, strict=True) as run, alone:
                    video = pipeline.decode(pipe, pipeline.sample(pipe, prompt, seed=seed))[0]
                (segment,) = run.report["generations"][0]["segments"]
                grown = [
                    end
                    for (_, before), (_, end) in zip(segment["intervals"], segment["intervals"][1:], strict=False)
                    if end > before
                ]
                less = 2 * sum(end - BLOCK for end in grown) if rule == "new" else 0
                found.append((segment["slots_computed"] - less, psnr(reference, video), ssim(reference, video)))
            slots, decibels, similar = (fmean(column) for column in zip(*found, strict=True))
            ratio = segment["slots_baseline"] / slots
            print(f"| {rule} | {most} | {slots:.0f} | {ratio:.2f} | {decibels:.2f} | {similar:.4f} |", flush=True)


if __name__ == "__main__":
    main()
