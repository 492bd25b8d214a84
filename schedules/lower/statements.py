"""A walk over lowered statements that lets rules replace some of them.

What the passes of our own share. TVM's visitors reach every expression; these rules look at loops
and allocations only, and candidates are built by the thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import tvm
from tvm import tirx

Statement: TypeAlias = Any
Rule: TypeAlias = Callable[[Statement], Statement | None]


def replaced(statement: Statement, *rules: Rule) -> Statement:
    """``statement`` with the outermost parts replaced by what the first rule makes of them.

    A rule gives ``None`` for what it leaves alone.
    """
    for rule in rules:
        found = rule(statement)
        if found is not None:
            return found
    match statement:
        case tirx.SeqStmt():
            old = list(statement.seq)
            new = [replaced(s, *rules) for s in old]
            return statement if all(map(_same, old, new)) else tirx.SeqStmt(new)
        case tirx.For():
            body = replaced(statement.body, *rules)
            return statement if _same(statement.body, body) else _around(statement, body)
        case tirx.AttrStmt():
            body = replaced(statement.body, *rules)
            return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, body)
        case tirx.IfThenElse():
            other = statement.else_case
            other = None if other is None else replaced(other, *rules)
            then = replaced(statement.then_case, *rules)
            return tirx.IfThenElse(statement.condition, then, other)
        case _:
            return statement


def _same(old: Statement, new: Statement) -> bool:
    return bool(old.same_as(new))


def _around(loop: Statement, body: Statement) -> Statement:
    binding, notes = loop.thread_binding, loop.annotations
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, binding, notes)


def statement_pass(name: str, *rules: Rule) -> tvm.transform.Pass:
    """The rules as a pass over functions."""

    def change(function: Any, module: Any, context: Any) -> Any:
        body = replaced(function.body, *rules)
        if _same(function.body, body):
            return function
        return tirx.PrimFunc(function.params, body, function.ret_type, function.attrs)

    return tirx.transform.prim_func_pass(change, opt_level=0, name=f"ansor_lite.{name}")
