"""The command: options in, an outlook out."""

from __future__ import annotations

import argparse
import json
import os

from ..settings import NAMES, Settings
from . import magi, skyreels
from .job import look
from .show import as_dict, lines


def run(options: argparse.Namespace) -> int:
    """Print the plan of a host. Raises UsageError for options that cannot be used."""
    flags = {name: getattr(options, name, None) for name in NAMES}
    settings = Settings.resolve(
        flags, {name: value for name, value in os.environ.items() if name != "SCOPE_PATCH_REPORT"}
    )
    made = magi.job(options, settings) if options.host == "magi-1" else skyreels.job(options, settings)
    outlook = look(made, settings)
    print(json.dumps(as_dict(outlook)) if options.json else "\n".join(lines(outlook)))
    return 0
