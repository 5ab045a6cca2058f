import torch
import torch.nn.functional as F


def _check(dropout_p, window_size, alibi_slopes, return_attn_probs):
    if dropout_p or tuple(window_size) != (-1, -1) or alibi_slopes is not None or return_attn_probs:
        raise NotImplementedError("flash_attn CPU stand-in: dropout, windows, alibi and attn probs are not supported")


def _attend(q, k, v, scale, causal):
    """q (B, Sq, Hq, D), k and v (B, Sk, Hkv, D) -> (B, Sq, Hq, D). Query head h reads kv head h // (Hq // Hkv)."""
    if k.shape[1] == 0:  # flash-attn returns zeros when there is nothing to attend to
        return torch.zeros_like(q)
    groups = q.shape[2] // k.shape[2]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    mask = None
    if causal:  # flash-attn >= 2.1 aligns the causal mask to the bottom right corner
        sq, sk = q.shape[1], k.shape[1]
        mask = torch.ones(sq, sk, dtype=torch.bool, device=q.device).tril(sk - sq)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=scale
    )
    return out.transpose(1, 2).contiguous()


def flash_attn_func(
    q,
    k,
    v,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
):
    _check(dropout_p, window_size, alibi_slopes, return_attn_probs)
    return _attend(q, k, v, softmax_scale, causal)


def flash_attn_qkvpacked_func(
    qkv,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
):
    _check(dropout_p, window_size, alibi_slopes, return_attn_probs)
    return _attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], softmax_scale, causal)


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
):
    """q (total_q, Hq, D), k and v (total_k, Hkv, D): one independent attention per [cu[i], cu[i + 1]) segment.

    cu_seqlens_k may start after 0 or end before total_k (under context parallelism it does).
    """
    _check(dropout_p, window_size, alibi_slopes, return_attn_probs)
    if block_table is not None:
        raise NotImplementedError("flash_attn CPU stand-in: block_table is not supported")
    cq, ck = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    if not (len(cq) == len(ck) and cq[0] == 0 and cq[-1] == q.shape[0] and ck[-1] <= k.shape[0] == v.shape[0]):
        raise ValueError(f"cu_seqlens {cq} / {ck} do not cover q {tuple(q.shape)} and k {tuple(k.shape)}")
    outs = [
        _attend(
            q[None, cq[i] : cq[i + 1]], k[None, ck[i] : ck[i + 1]], v[None, ck[i] : ck[i + 1]], softmax_scale, causal
        )[0]
        for i in range(len(cq) - 1)
    ]
    return torch.cat(outs, dim=0)
