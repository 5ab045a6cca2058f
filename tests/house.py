"""The map of the house: a line a file, the first of its docstring. `python tests/house.py` rewrites it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "house.md"
BEGIN, END = "<!-- map -->\n", "<!-- end of map -->\n"


def files() -> list[Path]:
    """Every file of the package and of the registry that holds something."""
    found = [path for folder in ("registry", "scope_patch") for path in (ROOT / folder).rglob("*")]
    kept = [path for path in found if path.is_file() and path.suffix in (".py", ".jinja")]
    return sorted(kept, key=lambda path: (path.parent, path.name))


def described(path: Path) -> str:
    """What a file says it is."""
    text = path.read_text(encoding="utf-8")
    first = ast.get_docstring(ast.parse(text)) if path.suffix == ".py" else text.split("{#")[1].split("#}")[0].strip()
    assert first, f"{path} does not say what it is"
    return " ".join(first.split("\n\n")[0].split())


def drawn() -> str:
    """The map, folder by folder."""
    lines, folder = [], None
    for path in files():
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"**{folder.relative_to(ROOT)}/**", "", "| file | what it is |", "|---|---|"]
        lines.append(f"| `{path.name}` | {described(path)} |")
    return "\n".join(lines[1:]) + "\n"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + drawn() + END + rest.partition(END)[2], encoding="utf-8")
