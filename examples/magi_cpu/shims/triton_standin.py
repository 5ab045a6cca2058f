"""Import-only stand-in for triton; see cuda_on_cpu.triton_for_import. Kernels can be declared but not launched."""

import types


class _NoLaunch:
    def __init__(self, fn):
        self.fn = fn
        self.__name__ = getattr(fn, "__name__", "kernel")

    def __getitem__(self, grid):
        raise RuntimeError(f"triton stand-in: cannot launch {self.__name__} on a CPU")


def build():
    triton, language = types.ModuleType("triton"), types.ModuleType("triton.language")
    language.constexpr = object
    triton.language = language
    triton.jit = lambda fn=None, **_: _NoLaunch(fn) if fn is not None else _NoLaunch
    triton.next_power_of_2 = lambda n: 1 << max(0, int(n) - 1).bit_length()
    triton.cdiv = lambda a, b: -(-a // b)
    return {"triton": triton, "triton.language": language}
