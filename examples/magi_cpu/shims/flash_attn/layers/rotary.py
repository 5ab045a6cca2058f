import torch


def apply_rotary_emb(x, cos, sin, interleaved=False, inplace=False, seqlen_offsets=0, cu_seqlens=None, max_seqlen=None):
    """x (B, S, H, D), cos and sin (>= S, R / 2) with R <= D: rotates the first R features, passes the rest through."""
    if inplace or cu_seqlens is not None or not isinstance(seqlen_offsets, int):
        raise NotImplementedError("flash_attn CPU stand-in: only plain out-of-place rotary")
    seqlen, half = x.shape[1], cos.shape[-1]
    cos = cos[seqlen_offsets : seqlen_offsets + seqlen, None, :].to(x.dtype)
    sin = sin[seqlen_offsets : seqlen_offsets + seqlen, None, :].to(x.dtype)
    rot, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        a, b = rot[..., 0::2], rot[..., 1::2]
        rot = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    else:
        a, b = rot[..., :half], rot[..., half:]
        rot = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    return torch.cat([rot, rest], dim=-1)
