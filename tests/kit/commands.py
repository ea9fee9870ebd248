"""Commands of lightloom for tests: called in this process, or as an operator starts them."""

import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

from typer.testing import CliRunner

from lightloom.cli.app import app

Ended = subprocess.CompletedProcess[str]


def called(folder: Path, *arguments: object) -> Ended:
    """Call a command in this process, without the seconds in which another one would start.

    What a user would see as a traceback is raised here.
    """
    words = [str(argument) for argument in arguments]
    with chdir(folder):
        done = CliRunner().invoke(app, words, catch_exceptions=False)
    return Ended(["lightloom", *words], done.exit_code, done.stdout, done.stderr)


def started(folder: Path, *arguments: object, **environment: str) -> Ended:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lightloom", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
