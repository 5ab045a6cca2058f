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
  * functions that make a tensor read device="cuda..." (or an integer device) as "cpu" and drop ``pin_memory=True``;
    so does ``Tensor.to``, and ``.cuda()`` is a no-op. (A TorchFunctionMode would do it in fewer lines, and take a fifth
    of all the time, since every operation would pass through it.)
  * torch.autocast("cuda", dtype) casts the arguments of matmul-like calls to ``dtype``. (The CPU autocast refuses
    float32, which is the dtype that MAGI-1 asks for around bf16 weights.)
  * torch.cuda.current_device / get_device_capability / set_device / synchronize answer as one sm_80 card would.
    empty_cache and the memory counters already work without CUDA, and torch.cuda.is_available() stays False.
"""

import contextlib
import functools
import os
import sys
import threading

import torch
from torch.utils import _device

_MAKERS = (
    "arange as_tensor empty empty_like eye full full_like linspace logspace ones ones_like rand rand_like randint "
    "randint_like randn randn_like randperm tensor zeros zeros_like"
).split()
_MATMUL_LIKE = {
    torch.nn.functional: "linear conv1d conv2d conv3d scaled_dot_product_attention",
    torch: "conv1d conv2d conv3d matmul mm bmm addmm baddbmm",
    torch.Tensor: "matmul __matmul__ mm bmm",
}
_amp = threading.local()  # .dtype: of the innermost torch.autocast("cuda") in force here


def _is_cuda(device) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.startswith("cuda")


def _on_cpu(function):
    """The function, with its keywords `device` and `pin_memory` as they must be without CUDA."""

    @functools.wraps(function)
    def made(*args, **kwargs):
        device = kwargs.get("device")
        if device is not None and (_is_cuda(device) or type(device) is int):
            kwargs["device"] = "cpu"
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return function(*args, **kwargs)

    return made


def _in_context(init):
    @functools.wraps(init)
    def made(context, device):
        init(context, torch.device("cpu") if _is_cuda(device) else device)

    return made


def _to(to):
    keywords = _on_cpu(to)

    @functools.wraps(to)
    def moved(tensor, *args, **kwargs):
        if args and _is_cuda(args[0]):
            args = ("cpu", *args[1:])
        return keywords(tensor, *args, **kwargs) if kwargs else to(tensor, *args)

    return moved


def _autocasting(function):
    """The function, its arguments cast to the dtype of the autocast in force."""

    @functools.wraps(function)
    def cast(*args, **kwargs):
        dtype = getattr(_amp, "dtype", None)
        if dtype is not None:
            args = tuple(a.to(dtype) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args)
        return function(*args, **kwargs)

    return cast


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
        self._outer, _amp.dtype = getattr(_amp, "dtype", None), self._cuda_dtype
        return self

    def __exit__(self, *exc):
        if not self._for_cuda:
            return super().__exit__(*exc)
        _amp.dtype = self._outer
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
    _device._device_constructors()  # remembers the makers as they are, for `with torch.device(...)`
    _device.DeviceContext.__init__ = _in_context(_device.DeviceContext.__init__)
    for name in _MAKERS:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    for name in ("new_empty", "new_full", "new_ones", "new_tensor", "new_zeros"):
        setattr(torch.Tensor, name, _on_cpu(getattr(torch.Tensor, name)))
    torch.Tensor.to = _to(torch.Tensor.to)
    torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor
    for owner, names in _MATMUL_LIKE.items():
        for name in names.split():
            setattr(owner, name, _autocasting(getattr(owner, name)))
    _installed.append(True)


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
