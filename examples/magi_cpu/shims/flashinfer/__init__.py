"""CPU stand-in for the two flashinfer entry points that MAGI-1 uses."""

from . import activation, gemm

__all__ = ["activation", "gemm"]
