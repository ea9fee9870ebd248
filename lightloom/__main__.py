"""`python -m lightloom`, and the command `lightloom`: the command line."""

from typing import NoReturn

from .cli import process


def main() -> NoReturn:
    """Run the command line; Ctrl-C is handled while it is loaded."""
    process.run(_command_line)


def _command_line() -> None:
    from .cli.app import app

    app()


if __name__ == "__main__":
    main()
