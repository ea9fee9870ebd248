"""`python -m lightloom`, and the command `lightloom`: the process of a command, begun and ended.

This module imports little, so that Ctrl-C is handled while the rest is loaded.
"""

import atexit
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from .instruments.safety import signals
from .instruments.text import say
from .report import streams


def main() -> NoReturn:
    """Run the command line."""
    run(_command_line)


def _command_line() -> None:
    from .cli.app import app

    app(windows_expand_args=False)  # otherwise a prompt could name files: *, ?, ~, %NAME%


def run(work: Callable[[], object]) -> NoReturn:
    """Run the work of a command, and end the process with its status.

    Parameters
    ----------
    work : returns, or raises SystemExit with the status
    """
    try:
        atexit.register(_leave)  # the first to be registered is called last
        signals.listen()
        streams.guard()
        status = _status(work)
    except KeyboardInterrupt:
        status = signals.STATUS
    except BaseException:
        if not signals.was_interrupted():
            raise
        status = signals.STATUS  # what the interrupt left half done
    signals.stop_interrupting()
    if signals.was_interrupted():
        status = signals.STATUS
        say("stopped by the operator")
    if status:
        streams.tell_on_output()
    sys.exit(status or int(streams.result_is_lost()))


def _status(work: Callable[[], object]) -> int:
    try:
        work()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        say(str(end.code))
        return 1
    return 0


def _leave() -> None:
    """Make the process end with our status, and not by a signal.

    Python lets go of signals before its end. It would end itself by SIGINT where an interrupt came
    while a library in C ran Python code.
    """
    signals.ignore()
    if signals.was_interrupted():
        os._exit(signals.STATUS)


if __name__ == "__main__":
    main()
