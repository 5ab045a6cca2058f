"""The house, read from the import statements: one direction, no shortcuts, nothing heavy where it must be light."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import house
import pytest
from conftest import ROOT

PACKAGE = ROOT / "scope_patch"
# launch -> hook -> catalogue -> bind -> session -> policy -> predictor / history -> report; settings and errors are
# below all. A module may import what stands in a later row, or in its own without a circle. Longest prefix wins.
LAYERS: list[list[str]] = [
    ["scope_patch.__main__", "scope_patch.cli", "scope_patch.auto", "scope_patch.bootstrap", "scope_patch"],
    ["scope_patch.doctor", "scope_patch.launch", "scope_patch.outlook", "scope_patch.compare", "scope_patch.tuning"],
    ["scope_patch.patch.attach"],
    ["scope_patch.catalogue"],
    ["scope_patch.patch"],
    ["scope_patch.hosts"],
    ["scope_patch.method"],
    ["scope_patch.report"],
    ["scope_patch.settings", "scope_patch.registry"],
    ["scope_patch.values", "scope_patch.errors"],
]
HOSTS = {"diffusers", "transformers", "skyreels_v2_infer", "inference", "longcat_video", "xfuser"}
WITHIN_METHOD = HOSTS | {"wrapt", "scope_patch.patch", "scope_patch.report", "scope_patch.registry"}


def imports(source: str, module: str, is_package: bool = False, *, types: bool = True) -> Iterator[str]:
    """Every module that the text imports anywhere in it, in full names; `from . import x` gives the package's x.

    Args:
        types: also what is imported for type checkers alone; at run time that is no dependency.
    """
    package = module if is_package else module.rpartition(".")[0]
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def layer(module: str) -> int:
    """The row of the longest name in LAYERS that `module` is or lies under."""
    rows = [(len(name), row) for row, names in enumerate(LAYERS) for name in names if _under(module, name)]
    return max(rows)[1]


def _under(module: str, name: str) -> bool:
    return module == name or module.startswith(name + ".")


def upward(module: str, imported: str) -> bool:
    """Whether `module` reaches into an earlier row."""
    ours = _under(imported, "scope_patch")
    return ours and layer(imported) < layer(module)


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def imports_of(module: str, path: Path) -> list[str]:
    """At run time."""
    return list(imports(path.read_text(), module, path.name == "__init__.py", types=False))


def circle(needs: dict[str, set[str]]) -> list[str]:
    """Modules that need each other in a circle; empty where there is none."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        found = next(filter(None, (walk(other, [*way, module]) for other in sorted(needs[module]))), [])
        done.add(module)
        return found

    return next(filter(None, (walk(module, []) for module in sorted(needs))), [])


def test_no_circle() -> None:
    known = dict(modules())
    needs = {
        module: {
            name for found in imports_of(module, path) for name in (found, found.rpartition(".")[0]) if name in known
        }
        - {module, "scope_patch"}
        for module, path in known.items()
    }
    packages = {module for module, path in known.items() if path.name == "__init__.py"}
    for module in known:  # a package runs before what is in it, which is no need of the package's own
        needs[module] -= {package for package in packages if _under(module, package)}
    assert circle(needs) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"], "the checker can fail"


def test_the_map_of_the_house_is_true() -> None:
    page = house.PAGE.read_text()
    assert page.partition(house.BEGIN)[2].partition(house.END)[0] == house.drawn(), "run python tests/house.py"


def test_ten_layers() -> None:
    assert len(LAYERS) <= 10


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_one_way(module: str, path: Path) -> None:
    assert [name for name in imports_of(module, path) if upward(module, name)] == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "method").rglob("*.py")), ids=lambda path: path.stem)
def test_method_knows_neither_wrapt_nor_a_host(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    is_package = path.name == "__init__.py"
    names = imports(path.read_text(), module.removesuffix(".__init__"), is_package)
    assert [name for name in names if any(_under(name, bad) for bad in WITHIN_METHOD)] == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "compare").rglob("*.py")), ids=lambda path: path.stem)
def test_compare_works_on_files_alone(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    names = imports(path.read_text(), module.removesuffix(".__init__"), path.name == "__init__.py")
    ours = [name for name in names if _under(name, "scope_patch")]
    below = ("scope_patch.compare", "scope_patch.report", "scope_patch.settings", "scope_patch.errors")
    assert [name for name in ours if not any(_under(name, allowed) for allowed in below)] == []


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_no_module_imports_a_host(module: str, path: Path) -> None:
    assert [name for name in imports_of(module, path) if any(_under(name, host) for host in HOSTS)] == []


def test_bootstrap_is_standard_library_at_the_top_and_arms_from_within() -> None:
    path = PACKAGE / "bootstrap" / "sitecustomize.py"
    tree = ast.parse(path.read_text())
    top = [name for node in tree.body for name in imports(ast.unparse(node), "sitecustomize") if _is_import(node)]
    assert sorted(top) == ["os", "sys"]
    allowed = {*sys.stdlib_module_names, "scope_patch", "sitecustomize"}
    assert {name.partition(".")[0] for name in imports(path.read_text(), "sitecustomize")} <= allowed


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


@pytest.mark.parametrize("path", sorted((ROOT / "registry").glob("*.py")), ids=lambda path: path.stem)
def test_registry_files_only_answer_questions(path: Path) -> None:
    assert path.name != "__init__.py", "a registry/__init__.py would win over scope_patch/registry.py"
    names = list(imports(path.read_text(), f"scope_patch.registry.{path.stem}"))
    ours = {name.rpartition(".")[0] for name in names if _under(name, "scope_patch")}
    pure = ("scope_patch.patch", "scope_patch.hosts")
    assert all(any(_under(name, allowed) for allowed in pure) for name in ours)
    at_the_top = [ast.unparse(node) for node in ast.parse(path.read_text()).body if _is_import(node)]
    packages = {name.partition(".")[0] for text in at_the_top for name in imports(text, "")}
    assert packages <= {*sys.stdlib_module_names, "scope_patch"}, "no torch before a run"


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("scope_patch.method.plan", "from ..patch import session", "scope_patch.patch.session"),
        ("scope_patch.method.plan", "def f():\n    from ..patch.session import x", "scope_patch.patch.session.x"),
        ("scope_patch.report.timeline", "import scope_patch.method.plan", "scope_patch.method.plan"),
        ("scope_patch.patch.session", "from . import attach", "scope_patch.patch.attach"),
        ("scope_patch.settings", "from .cli import main", "scope_patch.cli.main"),
    ],
)
def test_the_checker_can_fail(module: str, source: str, found: str) -> None:
    assert [name for name in imports(source, module) if upward(module, name)] == [found]


def test_the_checker_lets_downward_imports_pass() -> None:
    source = "from ..method.policies import create\nfrom .. import registry\nfrom . import velocity\nimport torch"
    assert [
        name for name in imports(source, "scope_patch.patch.session") if upward("scope_patch.patch.session", name)
    ] == []
