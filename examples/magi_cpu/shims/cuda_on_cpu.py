"""Make code with hard-coded CUDA calls run on a machine without CUDA. MAGI-1's files are not touched.

    import cuda_on_cpu
    cuda_on_cpu.install()                     # before upstream is imported
    with cuda_on_cpu.triton_for_import():     # only where triton is not installed
        import inference.model.dit.dit_module
    cuda_on_cpu.patch_dit_module()            # one Triton kernel -> PyTorch
    import inference.pipeline.video_generate
    with cuda_on_cpu.claim_cuda():  # only around code that asserts torch.cuda.is_available()
        dist_init(config)

What ``install`` does:
  * a global TorchFunctionMode reads device="cuda..." (or an integer device) as "cpu", makes ``.cuda()`` a no-op and
    drops ``pin_memory=True``. It is thread-local: code in other threads is not covered.
  * torch.autocast("cuda", dtype) casts the arguments of matmul-like calls to ``dtype``. (The CPU autocast refuses
    float32, which is the dtype that MAGI-1 asks for around bf16 weights.)
  * torch.cuda.current_device / get_device_capability / set_device / synchronize answer as one sm_80 card would.
    empty_cache and the memory counters already work without CUDA, and torch.cuda.is_available() stays False.
"""

import contextlib
import os
import sys

import torch
from torch.overrides import TorchFunctionMode

_TO, _CUDA = torch.Tensor.to, torch.Tensor.cuda
_MATMUL_LIKE = {
    torch.nn.functional.linear, torch.conv1d, torch.conv2d, torch.conv3d, torch.matmul, torch.mm, torch.bmm,
    torch.addmm, torch.baddbmm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm, torch.Tensor.bmm,
    torch.nn.functional.scaled_dot_product_attention,
}  # fmt: skip
_amp_dtype = [None]  # innermost torch.autocast("cuda") in force


def _is_cuda(device) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.startswith("cuda")


class CudaToCpu(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is _CUDA:
            return args[0]
        if kwargs:
            device = kwargs.get("device")
            if device is not None and (_is_cuda(device) or type(device) is int):
                kwargs["device"] = "cpu"
            if kwargs.get("pin_memory"):
                kwargs["pin_memory"] = False
        if func is _TO and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], "cpu", *args[2:])
        dtype = _amp_dtype[0]
        if dtype is not None and func in _MATMUL_LIKE:
            args = tuple(a.to(dtype) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args)
        return func(*args, **(kwargs or {}))


class _Autocast(torch.autocast):
    """torch.autocast whose "cuda" flavour works without CUDA; every other device type is left to torch."""

    def __init__(self, device_type, dtype=None, enabled=True, cache_enabled=None):
        self._cuda_dtype = (dtype or torch.float16) if enabled else None
        self._for_cuda = device_type == "cuda"
        if self._for_cuda:
            super().__init__("cpu", dtype=torch.bfloat16, enabled=False)
        else:
            super().__init__(device_type, dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)

    def __enter__(self):
        if not self._for_cuda:
            return super().__enter__()
        self._outer, _amp_dtype[0] = _amp_dtype[0], self._cuda_dtype
        return self

    def __exit__(self, *exc):
        if not self._for_cuda:
            return super().__exit__(*exc)
        _amp_dtype[0] = self._outer
        return False


_installed = []


def install() -> None:
    if _installed:
        return
    here = os.path.dirname(os.path.abspath(__file__))
    if here not in sys.path:
        sys.path.insert(0, here)
    sys.path.append(os.path.join(here, "_fallback"))  # last: only for packages that are not installed
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda device=None: (8, 0)
    torch.cuda.set_device = lambda device: None
    torch.cuda.synchronize = lambda device=None: None
    torch.autocast = _Autocast
    mode = CudaToCpu()
    mode.__enter__()
    _installed.append(mode)


@contextlib.contextmanager
def claim_cuda():
    """torch.cuda.is_available() is True and device_count() is 1 inside the block (dist_init insists on both)."""
    saved = torch.cuda.is_available, torch.cuda.device_count
    torch.cuda.is_available, torch.cuda.device_count = (lambda: True), (lambda: 1)
    try:
        yield
    finally:
        torch.cuda.is_available, torch.cuda.device_count = saved


@contextlib.contextmanager
def triton_for_import():
    """A stand-in triton in sys.modules inside the block. Not longer: torch and transformers would take it for real."""
    try:
        import triton  # noqa: F401

        standin = {}
    except ImportError:
        import torch._dynamo  # noqa: F401  (so that it has looked for triton already)
        import triton_standin

        standin = triton_standin.build()
    sys.modules.update(standin)
    try:
        yield
    finally:
        for name in standin:
            del sys.modules[name]


def _range_mod(x, c_mapping, gatings):
    """x (s, b, h) times, per token, the row of gatings (b, ranges, h) that c_mapping (s, b) names."""
    return x * gatings.flatten(0, 1)[c_mapping]


def patch_dit_module() -> None:
    """Replace the one function of dit_module that launches a Triton kernel; bias_modulate_add looks it up by name."""
    from inference.model.dit import dit_module

    dit_module.range_mod_triton = _range_mod
