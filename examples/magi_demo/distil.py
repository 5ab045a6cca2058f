"""Teach a copy of the model what guidance makes of it: one forward a step in place of three, as in MAGI-1's distilled.

The steps stay as many. Upstream runs such a model with cfg_number 1.
"""

from __future__ import annotations

import torch

from .model import CHUNK, VideoDiT
from .sampling import DEFAULTS
from .train_dit import Trainer

NEARLY_CLEAN = 0.3
"""From this time on upstream reads no text (its text_scales), and without guidance mixes in a chunk that is alone."""
MIXED = 0.7
"""How much of the others it leaves there (`forward_dispatcher`, prev_chunks_scale)."""
PREVIOUS = 1.5
"""Upstream's prev_chunk_scales before that; 1 from there on."""


def guidance(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale of earlier chunks, scale of the text) at times t, so that upstream's loop comes to the teacher's velocity.

    Nearly clean, MIXED of what is learnt here and the rest of a chunk alone shall be what the teacher says of all.
    """
    early = t < NEARLY_CLEAN
    return torch.where(early, PREVIOUS, 1 / MIXED), torch.where(early, DEFAULTS.text_scale, 0.0)


class Distiller(Trainer):
    """The same clips, noise and windows; what is learnt is the guided velocity of `teacher` (see Trainer)."""

    def __init__(self, data: dict, held_out: dict, teacher: VideoDiT, **options):
        super().__init__(data, held_out, teacher.sizes, **options)
        self.teacher = teacher.eval().requires_grad_(False)
        for own in (self.model, self.average):
            own.load_state_dict(teacher.state_dict())

    def batch(self, *of):
        """A finished chunk goes along without its text, but is told that there is one."""
        x, text, lengths, levels, noise = super().batch(*of)
        running = levels.weight > 0
        return x, text, lengths, levels._replace(reads_text=running, says_text=torch.ones_like(running)), noise

    def wanted(self, batch, noised: torch.Tensor) -> torch.Tensor:
        _, text, lengths, levels, _ = batch
        return self.guided(noised, levels.t, text, lengths, levels.reads_text, levels.sees)

    @torch.no_grad()
    def guided(self, x, t, text, lengths, running, sees) -> torch.Tensor:
        """What guidance three ways makes of the teacher, [B, 16, T, h, w]; arguments as `VideoDiT.forward` has them."""
        none, alone = torch.zeros_like(running), torch.eye(t.shape[1], dtype=torch.bool).expand_as(sees)
        reads = torch.cat([running, none, none])
        previous, words = (scale.repeat_interleave(CHUNK, dim=1)[:, None, :, None, None] for scale in guidance(t))
        given = (torch.cat([part] * 3) for part in (x, t, text, lengths))
        out = self.teacher(*given, reads, reads, torch.cat([sees, sees, alone]), self.dtype, self.block)
        told, seen, single = out.chunk(3)
        return (1 - previous) * single + (previous - words) * seen + words * told
