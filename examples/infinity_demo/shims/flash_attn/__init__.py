"""flash_attn's two functions that Infinity imports, on PyTorch's own attention. No flash_attn.ops: it has fallbacks."""

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
    """(B, L, H, c) each."""
    out = sdpa(*(x.transpose(1, 2).float() for x in (q, k, v)), scale=softmax_scale, is_causal=causal)
    return out.transpose(1, 2).contiguous().to(q.dtype)


def flash_attn_varlen_kvpacked_func(
    q, kv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False
):
    """q (sum Lq, H, c), kv (sum Lk, 2, H, c): one attention a sequence, or one for all of one length."""
    ends, cuts = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    rows = len(ends) - 1
    if rows * max_seqlen_q == len(q) and rows * max_seqlen_k == len(kv):
        k, v = kv.unflatten(0, (rows, -1)).unbind(2)
        return flash_attn_func(q.unflatten(0, (rows, -1)), k, v, softmax_scale=softmax_scale).flatten(0, 1)
    out = []
    for i in range(rows):
        k, v = kv[cuts[i] : cuts[i + 1]].unbind(1)
        out.append(flash_attn_func(q[None, ends[i] : ends[i + 1]], k[None], v[None], softmax_scale=softmax_scale)[0])
    return torch.cat(out)
