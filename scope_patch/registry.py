"""The package whose submodules are the architecture files, wherever they lie.

A wheel holds them in `scope_patch/registry/`; an editable install and a bare checkout have them in `registry/` beside
the package. Neither folder may hold an `__init__.py`: it would win over this module.
"""

from pathlib import Path

_inside = Path(__file__).parent / "registry"
_beside = Path(__file__).parent.parent / "registry"

__path__ = [str(_inside if _inside.is_dir() else _beside)]
