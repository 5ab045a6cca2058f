"""`import scope_patch.auto` as the first line of a script equals `python -m scope_patch run -- python script.py`.

Settings come from the SCOPE_PATCH_* environment variables; under SCOPE_PATCH=0 nothing happens. Raises UsageError when
one of them has a value that cannot be used: the script has not done anything yet that could be lost.
"""

import os

from .settings import Settings, switched_off

if not switched_off(os.environ):
    from .launch import check
    from .report.sink import speak_at_exit

    settings = Settings.resolve({}, os.environ)
    check(settings)
    speak_at_exit(settings)

    from .patch.attach import arm

    arm(settings)
