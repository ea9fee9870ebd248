"""The directive `command-reference`: every command of a typer app, as headings and tables.

It reads the signatures of the commands when the site is built, so the page cannot be out of date:

    ```{command-reference} lightloom.cli.app:app
    :program: lightloom
    ```

It writes Markdown, which the page's own parser reads.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer import Typer
from typer.models import ArgumentInfo, OptionInfo

_VALUES = {str: "text", Path: "path", int: "whole number", float: "number"}


class CommandReference(SphinxDirective):
    """Writes the commands of the app `MODULE:NAME`, in the groups that `--help` shows."""

    required_arguments = 1
    option_spec: ClassVar[Any] = {"program": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the sections of the commands."""
        module, _, name = self.arguments[0].partition(":")
        app = getattr(import_module(module), name)
        text = "\n".join(app_lines(app, self.options["program"]))
        found: nodes.Element = nodes.section()
        self.state.nested_parse(text.splitlines(), self.content_offset, found, match_titles=True)
        return list(found.children)


def app_lines(app: Typer, program: str) -> Iterator[str]:
    """Yield the Markdown of an app: its groups in order, and the commands of each."""
    group = None
    for command in app.registered_commands:
        assert command.name is not None
        assert command.callback is not None
        if isinstance(command.rich_help_panel, str) and command.rich_help_panel != group:
            group = command.rich_help_panel
            yield from (f"### {group}", "")
        yield from command_lines(program, command.name, command.callback)


def command_lines(program: str, name: str, function: Callable[..., Any]) -> Iterator[str]:
    """Yield the Markdown of a command: what it does, its arguments and options, examples."""
    heading = f"### {name}" if " " in program else f"#### {program} {name}"
    text, _, examples = inspect.cleandoc(function.__doc__ or "").partition("Example")
    arguments, options = [], []
    hints = get_type_hints(function, include_extras=True)
    for key, parameter in inspect.signature(function).parameters.items():
        kind, info = get_args(hints[key])
        given = parameter.default
        if isinstance(info, ArgumentInfo):
            arguments.append((f"`{_argument(key, kind, given)}`", info.help or ""))
        else:
            options.append((*_option(key, kind, given, info), info.help or ""))
    usage = [
        program,
        name,
        *(["[OPTIONS]"] if options else []),
        *(word.strip("`") for word, _ in arguments),
    ]
    yield from (heading, "", text.strip(), "", "```text", " ".join(usage), "```", "")
    if arguments:
        yield from _table(("argument", "meaning"), arguments)
    if options:
        yield from _table(("option", "value", "default", "meaning"), options)
    commands = re.sub(r"^s?: ", "", " ".join(examples.split())).split("; ")
    yield from ("```sh", *commands, "```", "")


def _argument(key: str, kind: Any, default: object) -> str:
    """Return an argument as `--help` writes it: in brackets where it may be left out."""
    word = key.upper() + (" ..." if _element(kind) is not None else "")
    return word if default is inspect.Parameter.empty else f"[{word}]"


def _option(key: str, kind: Any, default: object, info: OptionInfo) -> tuple[str, str, str]:
    """Return an option's names, its values and its default."""
    given = (info.default, *(info.param_decls or ()))  # in Annotated, the first is a name, too
    names = [name for name in given if isinstance(name, str)] or [f"--{key.replace('_', '-')}"]
    shown = ", ".join(f"`{name}`" for word in names for name in word.split("/"))
    if default is inspect.Parameter.empty:
        return shown, _values(kind, info), "required"
    if default is None or default is False:
        return shown, _values(kind, info), ""
    text = names[0].partition("/")[0] if default is True else str(default)
    return shown, _values(kind, info), f"`{text}`"


def _values(kind: Any, info: OptionInfo) -> str:
    """Return the values that an option takes; a switch takes none."""
    element = _element(kind)
    if element is not None:
        return f"{_values(element, info)}; repeatable"
    if isinstance(kind, UnionType):
        return _values(next(part for part in get_args(kind) if part is not type(None)), info)
    if kind is bool:
        return ""
    if info.metavar:
        return f"`{info.metavar}`"
    if issubclass(kind, StrEnum):
        return ", ".join(f"`{value}`" for value in kind)
    bound = "" if info.min is None else f", at least {info.min}"
    return f"{_VALUES[kind]}{bound}"


def _element(kind: Any) -> Any:
    """Return the type of the elements of a list; None for another type."""
    for part in (kind, *get_args(kind)):
        if get_origin(part) is list:
            return get_args(part)[0]
    return None


def _table(head: tuple[str, ...], rows: list[Any]) -> Iterator[str]:
    for cells in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
    yield ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command-reference", CommandReference)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
