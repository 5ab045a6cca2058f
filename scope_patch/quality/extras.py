"""Packages of the extra `report`, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import UsageError


def extra(module: str, package: str) -> Any:
    """The module `module` of the distribution `package`. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"this needs {package}, which cannot be imported ({error}); it is in the extra `report`: "
            'pip install -c constraints.txt -e ".[report]"'
        ) from error
