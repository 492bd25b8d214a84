"""The README promises only what is there: commands, options, public names, files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import ansor_lite
from ansor_lite.cli import app, run, tuner

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = {"tune-model": tuner, "ansor-lite": app}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def command_lines() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]


def test_the_readme_shows_commands() -> None:
    assert {line[0] for line in command_lines()} >= {"scripts/demo", "scripts/test", *COMMANDS}


@pytest.mark.parametrize("line", command_lines(), ids=" ".join)
def test_every_command_and_option_exists(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if line[0].startswith("scripts/"):
        assert (ROOT / line[0]).stat().st_mode & 0o111, f"{line[0]} cannot be executed"
        return
    words = [w for w in line[1:] if not w.startswith("-") and "." not in w and "/" not in w]
    subcommands = words[:2] if words[:1] == ["log"] else words[:1]
    path = [] if line[0] == "tune-model" else subcommands
    assert run(COMMANDS[line[0]], line[0], [*path, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (w for w in line[1:] if w.startswith("-")):
        assert re.search(rf"(^|\W){re.escape(option)}\b", shown), f"{line[0]} has no {option}"


def test_the_python_block_uses_public_names() -> None:
    [block] = blocks("python")
    compile(block, "README.md", "exec")
    names = set(re.findall(r"\bal\.(\w+)", block))
    assert names and names <= set(ansor_lite.__all__)


def test_the_tasks_of_the_python_block_exist() -> None:
    [block] = blocks("python")
    made = re.findall(r"al\.workloads\.\w+\(.*\)", block)
    assert len(made) == block.count("al.workloads.")
    for line in made:
        assert eval(line, {"al": ansor_lite}).flop > 0


def test_every_path_that_is_linked_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), f"README links {target}"


def test_contributing_speaks_of_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(
        r"`((?:schedules|search_space|cost_model|ansor_lite|scripts)/[\w./]*)`", text
    ):
        assert (ROOT / path).exists(), f"CONTRIBUTING names {path}"
