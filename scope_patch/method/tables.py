"""Small tables on their way from the CPU to the device of the velocities."""

from __future__ import annotations

import torch
from torch import Tensor


def moved(table: Tensor, device: torch.device) -> Tensor:
    """A float64 table on a device, without the host waiting for it; the table itself where it is there already.

    MPS has no float64 and gets float32.
    """
    if table.device == device:
        return table
    if device.type == "mps":
        return table.to(device, torch.float32)
    if device.type == "cuda":
        table = table.pin_memory()  # from pageable memory the copy would be waited for after all
    return table.to(device, non_blocking=True)
