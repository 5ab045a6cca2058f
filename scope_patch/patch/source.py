"""Structural facts read from a host's source text, without running it; and what a loop there does with its schedule."""

from __future__ import annotations

import ast
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parameters(function: Function) -> list[str]:
    """Parameter names in order, positional before keyword-only."""
    spec = function.args
    return [argument.arg for argument in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]]


def positional(function: Function) -> list[str]:
    """Parameter names that cannot be given by keyword."""
    spec = function.args
    return [argument.arg for argument in [*spec.posonlyargs, *([spec.vararg] if spec.vararg else [])]]


def find_class(tree: ast.Module | None, name: str) -> ast.ClassDef | None:
    """The class of that name at the top level of a module; None where there is none, or no module."""
    body = tree.body if tree else []
    return next((node for node in body if isinstance(node, ast.ClassDef) and node.name == name), None)


def find_method(owner: ast.ClassDef | None, name: str) -> Function | None:
    """The method of that name in a class body; None where there is none, or no class."""
    body = owner.body if owner else []
    return next((node for node in body if isinstance(node, Function) and node.name == name), None)


def last_name(node: ast.expr) -> str:
    """`nn.ModuleList` -> `ModuleList`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def assigns_call(function: ast.AST, attribute: str, made_by: str) -> bool:
    """Whether the function has `self.<attribute> = <made_by>(...)`."""
    return any(
        isinstance(target, ast.Attribute) and target.attr == attribute
        for node in _assigned_calls(function, made_by)
        for target in node.targets
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
    names = {last_name(target.elts[position]) for target in _unpacked(node, called, position)}
    indexed = {last_name(inner.value) for inner in ast.walk(node) if isinstance(inner, ast.Subscript)}
    return bool(names) and names <= indexed


def calls(node: ast.AST, method: str) -> bool:
    """Whether the code below a node calls something of that name."""
    return any(isinstance(inner, ast.Call) and last_name(inner.func) == method for inner in ast.walk(node))


def words(node: ast.AST) -> set[str]:
    """Names, attributes, keywords and strings below a node."""
    found: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name | ast.Attribute):
            found.add(last_name(inner))
        elif isinstance(inner, ast.keyword) and inner.arg:
            found.add(inner.arg)
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            found.add(inner.value)
    return found


class ScheduleLoop:
    """The loops of one method that unpacks what `called(...)` returns, the intervals at `position` among it."""

    def __init__(self, method: ast.FunctionDef, called: str, position: int) -> None:
        self._method = method
        self._unpacked = list(_unpacked(method, called, position))
        self._tables = {last_name(name) for target in self._unpacked for name in target.elts}
        self._intervals = {last_name(target.elts[position]) for target in self._unpacked}

    @property
    def by_its_counter(self) -> bool:
        """Whether every interval is read in the loop over the tables, by a name which that loop sets.

        An interval that is read elsewhere may be another iteration's: a loop would then be given the wrong one.
        """
        return all(
            isinstance(loop, ast.For)
            and isinstance(node.slice, ast.Name)
            and bool(_names(loop.iter) & self._tables)
            and node.slice.id in _names(loop, ast.Store)  # its own targets, and what is assigned in its body
            for loop, node in _subscripts(self._method, None)
            if self._is_interval(node)
        )

    @property
    def cuts_both(self) -> bool:
        """Whether two tensors (latents and timesteps) are cut by what is read, for each time the schedule is made."""
        ends = self._ends()
        cuts = sum(
            isinstance(node, ast.Slice)
            and isinstance(node.lower, ast.Name)
            and isinstance(node.upper, ast.Name)
            and (node.lower.id, node.upper.id) in ends
            for node in ast.walk(self._method)
        )
        return cuts >= 2 * len(self._unpacked)

    def _ends(self) -> set[tuple[str, str]]:
        """Names (start, end) that an interval is unpacked to, at once or by way of another name."""
        assigned = [node for node in ast.walk(self._method) if isinstance(node, ast.Assign)]
        read = [node for node in assigned if self._is_interval(node.value)]
        named = {target.id for node in read for target in node.targets if isinstance(target, ast.Name)}
        return {
            (last_name(target.elts[0]), last_name(target.elts[1]))
            for node in assigned
            if self._is_interval(node.value) or last_name(node.value) in self._intervals | named
            for target in node.targets
            if isinstance(target, ast.Tuple) and len(target.elts) == 2
        }

    def _is_interval(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Subscript) and last_name(node.value) in self._intervals


def _assigned_calls(node: ast.AST, called: str) -> Iterator[ast.Assign]:
    """The assignments below a node of what `called(...)` returns."""
    for each in ast.walk(node):
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Call) and last_name(each.value.func) == called:
            yield each


def _unpacked(node: ast.AST, called: str, position: int) -> Iterator[ast.Tuple]:
    """The targets, with more than so many names, that it is unpacked to."""
    targets = (target for assigned in _assigned_calls(node, called) for target in assigned.targets)
    return (target for target in targets if isinstance(target, ast.Tuple) and len(target.elts) > position)


def _subscripts(node: ast.AST, loop: ast.AST | None) -> Iterator[tuple[ast.AST | None, ast.Subscript]]:
    """Every subscript below a node, with the innermost loop around it."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.Subscript):
            yield loop, inner
        yield from _subscripts(inner, inner if isinstance(inner, ast.For | ast.While) else loop)


def _names(node: ast.AST, context: type[ast.expr_context] = ast.expr_context) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, context)}
