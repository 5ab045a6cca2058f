"""`oldest` -> the first diffusers on the index that the registry accepts; any other word is a version already.

On stderr: what the index has that is newer than what the registry was read at.
"""

import re
import subprocess
import sys

from packaging.specifiers import SpecifierSet
from packaging.version import Version
from scope_patch.registry.skyreels_v2_diffusers import HOST

if sys.argv[1] != "oldest":
    print(sys.argv[1])
    sys.exit()
told = subprocess.run(
    [sys.executable, "-m", "pip", "index", "versions", "diffusers"], capture_output=True, text=True, check=True
).stdout
offered = sorted(map(Version, re.search(r"Available versions: (.*)", told)[1].split(", ")))
read_at = Version(re.findall(r"[\d.]+", HOST.source.partition("(")[0])[-1])
if offered[-1].release[:2] > read_at.release[:2]:
    print(f"diffusers {offered[-1]} is newer than what the registry was read at ({read_at})", file=sys.stderr)
print(min(SpecifierSet(HOST.versions["diffusers"]).filter(offered)))
