"""CPU stand-in for flash-attn: same call signatures as 2.4.2, plain PyTorch inside (GQA, causal, empty segments)."""

from .flash_attn_interface import flash_attn_func, flash_attn_qkvpacked_func, flash_attn_varlen_func

__all__ = ["flash_attn_func", "flash_attn_qkvpacked_func", "flash_attn_varlen_func"]
