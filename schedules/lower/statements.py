"""A walk over lowered statements that lets a rule replace some of them.

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


def replaced(statement: Statement, rule: Rule) -> Statement:
    """``statement`` with the outermost parts that ``rule`` has something for replaced by it."""
    found = rule(statement)
    if found is not None:
        return found
    match statement:
        case tirx.SeqStmt():
            return tirx.SeqStmt([replaced(s, rule) for s in statement.seq])
        case tirx.For():
            return with_body(statement, replaced(statement.body, rule))
        case tirx.AttrStmt():
            body = replaced(statement.body, rule)
            return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, body)
        case tirx.IfThenElse():
            other = statement.else_case
            other = None if other is None else replaced(other, rule)
            return tirx.IfThenElse(statement.condition, replaced(statement.then_case, rule), other)
        case _:
            return statement


def with_body(loop: Statement, body: Statement) -> Statement:
    """``loop`` around another body."""
    return tirx.For(
        loop.loop_var,
        loop.min,
        loop.extent,
        loop.kind,
        body,
        loop.thread_binding,
        loop.annotations,
    )


def statement_pass(rule: Rule, name: str) -> tvm.transform.Pass:
    """The rule as a pass over functions."""

    def change(function: Any, module: Any, context: Any) -> Any:
        body = replaced(function.body, rule)
        return tirx.PrimFunc(function.params, body, function.ret_type, function.attrs)

    return tirx.transform.prim_func_pass(change, opt_level=0, name=f"ansor_lite.{name}")
