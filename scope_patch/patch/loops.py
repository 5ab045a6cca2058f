"""What a denoise loop does with the schedule it unpacks, read from its text."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .source import last_name

LATENTS_AND_TIMESTEPS = 2


class ScheduleLoop:
    """The loops of one method that unpacks what `called(...)` returns.

    Args:
        position: of the intervals among the things unpacked.
    """

    def __init__(self, method: ast.FunctionDef, called: str, position: int) -> None:
        self._method = method
        self._unpacked = [target for target in _unpacked(method, called) if len(target.elts) > position]
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
            and node.slice.id in _set_in(loop)
            for loop, node in _subscripts(self._method, None)
            if last_name(node.value) in self._intervals
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
        return cuts >= LATENTS_AND_TIMESTEPS * len(self._unpacked)

    def _ends(self) -> set[tuple[str, str]]:
        """Names (start, end) that an interval is unpacked to, at once or by way of another name."""
        pairs, found = set(self._intervals), set()
        for node in ast.walk(self._method):
            if isinstance(node, ast.Assign) and _is_interval(node.value, self._intervals):
                pairs.update(target.id for target in node.targets if isinstance(target, ast.Name))
        for node in ast.walk(self._method):
            if isinstance(node, ast.Assign) and (
                _is_interval(node.value, self._intervals) or last_name(node.value) in pairs
            ):
                for target in node.targets:
                    if isinstance(target, ast.Tuple) and len(target.elts) == 2:
                        found.add((last_name(target.elts[0]), last_name(target.elts[1])))
        return found


def _is_interval(node: ast.expr, intervals: set[str]) -> bool:
    return isinstance(node, ast.Subscript) and last_name(node.value) in intervals


def _unpacked(method: ast.FunctionDef, called: str) -> Iterator[ast.Tuple]:
    """The targets that what `called(...)` returns is unpacked to."""
    for node in ast.walk(method):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and last_name(node.value.func) == called:
            yield from (target for target in node.targets if isinstance(target, ast.Tuple))


def _subscripts(node: ast.AST, loop: ast.AST | None) -> Iterator[tuple[ast.AST | None, ast.Subscript]]:
    """Every subscript below a node, with the innermost loop around it."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.Subscript):
            yield loop, inner
        yield from _subscripts(inner, inner if isinstance(inner, ast.For | ast.While) else loop)


def _set_in(loop: ast.For) -> set[str]:
    """Names that a loop sets: its own targets, and what is assigned in its body."""
    return {node.id for node in ast.walk(loop) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
