"""Imports point one way, and TVM stays where it is announced."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# package -> the packages of ours that it may import
MAY_IMPORT = {
    "schedules": set(),
    "search_space": {"schedules"},
    "cost_model": {"schedules"},
    "ansor_lite": {"schedules", "search_space", "cost_model"},
    "examples": {"ansor_lite", "schedules"},
}
TVM_PACKAGES = {"tvm", "tvm_ffi"}
# Prints its result to its parent; hands the environment on to its workers.
PRINTS = ("ansor_lite/cli.py", "ansor_lite/measure/peak.py", "examples/")
PASSES_ENVIRONMENT = ("ansor_lite/measure/process.py",)
# Files of the lower packages that may import TVM; those of ansor_lite carry the mark.
TVM_FILES = ("schedules/from_tir.py", "schedules/to_tir.py", "schedules/lower/")
MARK = "# imports TVM"


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def every_source() -> list[Path]:
    return [path for package in MAY_IMPORT for path in sources(package)]


def imported(tree: ast.AST) -> Iterator[str]:
    """The top-level packages that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def marked(text: str) -> bool:
    return any(line.startswith(MARK) for line in text.splitlines())


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    for path in sources(package):
        ours = set(imported(ast.parse(path.read_text()))) & MAY_IMPORT.keys()
        assert ours <= allowed, f"{path.relative_to(ROOT)} imports {ours - allowed}"


def test_tvm_is_imported_only_in_the_files_that_say_so() -> None:
    for path in every_source():
        name, text = path.relative_to(ROOT).as_posix(), path.read_text()
        announced = name.startswith(TVM_FILES) or (name.startswith("ansor_lite/") and marked(text))
        uses = bool(TVM_PACKAGES & set(imported(ast.parse(text))))
        if name.startswith("examples/") or name.startswith("schedules/lower/"):
            continue
        assert not uses or announced, f"{name} imports TVM"
        assert uses or not announced, f"{name} is marked but imports no TVM"


def test_every_module_says_what_it_is() -> None:
    for path in every_source():
        tree = ast.parse(path.read_text())
        assert not tree.body or ast.get_docstring(tree), f"{path.relative_to(ROOT)}: no docstring"


def test_no_module_grows_beyond_five_hundred_lines() -> None:
    for path in every_source():
        lines = len(path.read_text().splitlines())
        assert lines <= 500, f"{path.relative_to(ROOT)} has {lines} lines"


def test_the_library_prints_nothing() -> None:
    for path in every_source():
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(PRINTS):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            names = {n.func.id for n in calls if isinstance(n.func, ast.Name)}
            assert "print" not in names, f"{name} prints"


def test_nothing_depends_on_the_environment() -> None:
    for path in every_source():
        name = path.relative_to(ROOT).as_posix()
        nodes = list(ast.walk(ast.parse(path.read_text())))
        reads = {n.attr for n in nodes if isinstance(n, ast.Attribute)} & {"environ", "getenv"}
        assert not reads or name in PASSES_ENVIRONMENT, f"{name} reads the environment"


def test_no_handler_swallows_every_exception() -> None:
    for path in every_source():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                name = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert caught not in ("everything", "Exception", "BaseException"), name
