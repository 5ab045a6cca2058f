"""What the chunks of a forward may attend to: the less noisy a chunk, the fewer chunks before it."""

import torch


def clean_reach(config):
    if config.clean_chunk_kvrange != -1:
        return config.clean_chunk_kvrange
    return config.noise2clean_kvrange[-1] if config.noise2clean_kvrange else 8


def reach(config, num_steps, chunk_steps):
    """How many chunks each may see, itself among them; chunk_steps says how many steps it has had."""
    by_noise = config.noise2clean_kvrange
    if not by_noise:
        return [2**20] * len(chunk_steps)  # all before it
    part = num_steps // len(by_noise)
    return [clean_reach(config) if done == num_steps else by_noise[done // part] for done in chunk_steps]


def tokens(slice_point, reach, chunk_tokens):
    """(chunks, 2) tokens counted from the video's start, for the chunks from slice_point on."""
    ends = torch.arange(slice_point + 1, slice_point + 1 + len(reach))
    rows = torch.stack([(ends - torch.tensor(reach)).clamp(min=0), ends], dim=1)
    return (rows * chunk_tokens).to(torch.int32)
