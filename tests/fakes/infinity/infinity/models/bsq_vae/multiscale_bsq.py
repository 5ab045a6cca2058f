"""The fake's quantiser: a bit is a sign."""

from torch import nn


class BSQ(nn.Module):
    def __init__(self, bits):
        super().__init__()
        self.size = bits**-0.5

    def indices_to_codes(self, indices, label_type="int_label", project_out=True):
        """[B, 1, h, w, bits] -> [B, bits, 1, h, w]."""
        assert label_type == "bit_label"
        return ((2.0 * indices - 1) * self.size).movedim(-1, 1)


class MultiScaleBSQ(nn.Module):
    def __init__(self, *, dim, **_):
        super().__init__()
        self.lfq, self.z_interplote_up = BSQ(dim), "trilinear"
