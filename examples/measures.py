"""What a setting cost: DiT FLOPs."""

from __future__ import annotations


class Flops:
    """FLOPs of one DiT forward by its number of latent frames, measured once each."""

    def __init__(self, pipe):
        self.pipe, self.known = pipe, {}

    def __call__(self, frames: int) -> int:
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from demo_model.text import MAX_TOKENS

        if frames not in self.known:
            model = self.pipe.transformer
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model(
                    torch.zeros(1, model.config.in_channels, frames, 8, 8),
                    torch.zeros(1, frames, dtype=torch.long),
                    torch.zeros(1, MAX_TOKENS, model.config.text_dim),
                    enable_diffusion_forcing=True,
                    fps=[1],
                )
            self.known[frames] = counter.get_total_flops()
        return self.known[frames]

    def of(self, generation: dict) -> tuple[int, int]:
        """(FLOPs of the forwards that ran, FLOPs of the unpatched host's) of a generation in a report."""
        segments = generation["segments"]
        ran = sum(s["modes"].count("R") for s in segments)
        branches = generation["forwards"]["run"] // ran
        if generation["forwards"]["run"] != branches * ran:
            raise SystemExit("a branch was forwarded out of turn: FLOPs cannot be read off the modes")
        full = max(end for s in segments for _, end in s["intervals"])
        work = [
            (mode, end - start) for s in segments for mode, (start, end) in zip(s["modes"], s["intervals"], strict=True)
        ]
        return (
            branches * sum(self(frames) for mode, frames in work if mode == "R"),
            branches * len(work) * self(full),
        )
