"""Timesteps from noise (0) to clean (1), and which chunks and which parts of the schedule a stage has."""

import torch


def init_t(num_steps, shortcut_mode="", shift=3.0):
    if num_steps == 12:  # of 16 steps, every fourth is left out
        parts = (0, 1, 2) if shortcut_mode == "16,16,8" else (0, 2, 3)
        t = torch.tensor([(4 * stage + part) / 16 for stage in range(5) for part in parts][:13])
    else:
        t = torch.linspace(0, 1, num_steps + 1)
    t, inverse = t**2, 1 / shift
    return inverse * t / (1 + (inverse - 1) * t)


def init_intervel(num_steps, shortcut_mode=""):
    if num_steps % 3:
        return torch.ones(num_steps)
    return torch.tensor(([1, 1, 2] if shortcut_mode == "16,16,8" else [2, 1, 1]) * (num_steps // 3))


def generate_sequences(chunk_num, window_size, chunk_offset):
    """(chunk_start, chunk_end, t_start, t_end), a list each, one entry a stage."""
    stages = range(chunk_offset, chunk_num + window_size - 1)
    return (
        [max(chunk_offset, stage - window_size + 1) for stage in stages],
        [min(chunk_num, stage + 1) for stage in stages],
        [max(0, stage - chunk_num + 1) for stage in stages],
        [min(window_size, stage - chunk_offset + 1) for stage in stages],
    )
