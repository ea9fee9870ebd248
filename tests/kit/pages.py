"""Pages of the documentation as programs: their blocks in order, run in one folder.

A page starts in an empty folder. Its blocks of Python share one namespace. Its shell blocks run
command by command and without a shell, so that they run on Windows too. A remark above a block,
which the rendered page does not show, says what differs:

    <!-- not run: needs an instrument -->
    <!-- ends with 1 -->          the last command of the block ends with this status

A ```text block right behind a block is what that block prints, with its messages on standard error
or without them; `...` stands for any text.
"""

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<remark>[^\n]*?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>python|sh|text)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_REASONS = (
    r"needs (an instrument|another computer|the network)\b",
    r"takes [\w ]*(seconds?|minutes?|hours?)\b",
    r"sets up (an environment|a checkout|the file above)\b",
)
_LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Block:
    """One fenced block of a page, and what it must print, if the page says so."""

    language: str
    code: str
    line: int
    not_run: str = ""
    status: int = 0
    printed: str | None = None


def name_of(page: Path) -> str:
    """Return a page's path from the root, with forward slashes."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page that run, in order, each with its remark."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in _BLOCK.finditer(text):
        code = "".join(
            line.removeprefix(match["indent"]) for line in match["code"].splitlines(keepends=True)
        )
        if match["language"] == "text":
            if found and not text[end : match.start()].strip():
                found[-1].printed = code
        else:
            line = text.count("\n", 0, match.start("language")) + 1
            found.append(_with_remark(Block(match["language"], code, line), match["remark"] or ""))
        end = match.end()
    return found


def _with_remark(block: Block, remark: str) -> Block:
    if remark.startswith("not run: "):
        block.not_run = remark.removeprefix("not run: ")
        assert re.match("|".join(_REASONS), block.not_run), f"line {block.line}: {remark}"
    elif remark:
        block.status = int(remark.removeprefix("ends with "))
    return block


def odd_fences_of(page: Path) -> list[str]:
    """Return the fences of a page that no test would see, such as ```bash or ~~~python."""
    opened, found = "", []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = re.match(r"[ \t>]*(`{3,}|~{3,})(.*)$", line)
        if fence is None or (opened and (fence[1] != opened or fence[2])):
            continue
        if not opened and not re.fullmatch(r" *```(python|sh|text|toml|\{[\w-]+\}.*)", line):
            found.append(f"line {number}: {line}")
        opened = "" if opened else fence[1]
    return [*found, "a fence is not closed"] if opened else found


def run_page(page: Path, folder: Path) -> None:
    """Run all blocks of a page in `folder`, which is the current one."""
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        if block.not_run:
            continue
        where = f"{name_of(page)}, line {block.line}"
        if block.language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)
            output, messages = printed.getvalue(), ""
        else:
            output, messages = _run_commands(block, folder, where)
        if block.printed is not None:
            check = partial(doctest.OutputChecker().check_output, block.printed, optionflags=_LOOSE)
            fits = check(got=output) or check(got=output + messages)
            assert fits, f"{where} prints\n{output + messages}\nand not\n{block.printed}"


def commands_of(block: Block) -> list[list[str]]:
    """Return the commands of a shell block, each as its words; `&&` and lines part them."""
    lines = block.code.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r" && ", line)]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def _run_commands(block: Block, folder: Path, where: str) -> tuple[str, str]:
    """Run the commands of a block; return what they wrote to standard output and error."""
    commands = commands_of(block)
    output = messages = ""
    for number, words in enumerate(commands):
        variables = dict(os.environ, COLUMNS="100")
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        if words[:2] == ["pip", "install"]:
            continue  # the environment of the tests has it
        done = subprocess.run(
            _program(words, where),
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
        )
        expected = block.status if number == len(commands) - 1 else 0
        told = f"{where}: {shlex.join(words)} ended with {done.returncode}\n{done.stderr}"
        assert done.returncode == expected, told
        output += done.stdout
        messages += done.stderr
    return output, messages


def _program(words: list[str], where: str) -> list[str]:
    if words[0] in ("lightloom", "pytest"):
        return [sys.executable, "-m", *words]
    assert words[0] == "python", f"{where}: {words[0]} is not run; say why in a remark above"
    return [sys.executable, *words[1:]]
