"""How much memory a device has in all: the same on every run, whatever else is on it."""

from __future__ import annotations

import os

import torch

SHARE = 10
"""One part in so many is for kept keys and values, where nobody says how much."""


def share(device: torch.device) -> int:
    """Bytes of that part; 0 where the size of the device's memory cannot be had."""
    return total(device) // SHARE


def total(device: torch.device) -> int:
    """Bytes of a CUDA device, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
