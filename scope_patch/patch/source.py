"""Structural facts read from a host's source text, without running it."""

from __future__ import annotations

import ast


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Parameter names in order, positional before keyword-only."""
    spec = function.args
    return [argument.arg for argument in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]]


def positional(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Parameter names that cannot be given by keyword."""
    spec = function.args
    return [argument.arg for argument in [*spec.posonlyargs, *([spec.vararg] if spec.vararg else [])]]


def find_class(tree: ast.Module, name: str) -> ast.ClassDef | None:
    """The class of that name at the top level of a module."""
    return next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)


def find_method(owner: ast.ClassDef, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The method of that name in a class body."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return next((node for node in owner.body if isinstance(node, kinds) and node.name == name), None)


def methods(owner: ast.ClassDef) -> list[ast.FunctionDef]:
    """The methods in a class body."""
    return [node for node in owner.body if isinstance(node, ast.FunctionDef)]


def base_names(owner: ast.ClassDef) -> list[str]:
    """Last names of the direct bases."""
    return [last_name(base) for base in owner.bases]


def last_name(node: ast.expr) -> str:
    """`nn.ModuleList` -> `ModuleList`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def assigns_call(function: ast.AST, attribute: str, made_by: str) -> bool:
    """Whether the function has `self.<attribute> = <made_by>(...)`."""
    return any(
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and last_name(node.value.func) == made_by
        and any(isinstance(target, ast.Attribute) and target.attr == attribute for target in node.targets)
        for node in ast.walk(function)
    )


def returned_lengths(function: ast.AST) -> set[int]:
    """Lengths of the tuples a function returns; 1 stands for anything else."""
    return {
        len(node.value.elts) if isinstance(node.value, ast.Tuple) else 1
        for node in ast.walk(function)
        if isinstance(node, ast.Return)
    }


def indexes_result(node: ast.AST, called: str, position: int) -> bool:
    """Whether the code below a node unpacks what `called(...)` returns and indexes the name at `position`."""
    names = {
        last_name(target.elts[position])
        for inner in ast.walk(node)
        if isinstance(inner, ast.Assign) and isinstance(inner.value, ast.Call) and last_name(inner.value.func) == called
        for target in inner.targets
        if isinstance(target, ast.Tuple) and len(target.elts) > position
    }
    indexed = {last_name(inner.value) for inner in ast.walk(node) if isinstance(inner, ast.Subscript)}
    return bool(names) and names <= indexed


def words(node: ast.AST) -> set[str]:
    """Names, attributes, keywords and strings below a node."""
    found: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            found.add(inner.id)
        elif isinstance(inner, ast.Attribute):
            found.add(inner.attr)
        elif isinstance(inner, ast.keyword) and inner.arg:
            found.add(inner.arg)
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            found.add(inner.value)
    return found
