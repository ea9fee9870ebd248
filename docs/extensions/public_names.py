"""How docstrings become the API reference: the sections and the short names of this project.

- The sections "Parameters", "Attributes" and "Returns" become lists of names, "Raises" a list of
  errors. An entry is `name : text`; its type is in the signature, and not in the docstring.
- A reference to a class by the module that defines it, or by its last name alone, leads to the
  public name under which the reference documents it.
- The fields of a class that pydantic checks become a list.
- A page of docs that a docstring names becomes a link; `|` is not markup, and `code` is code.
- A class that describes no parameters has those of its base class, if it takes the same.
- A title that is a dotted name may break behind its dots.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

from docutils import nodes
from pydantic import BaseModel
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

_SECTIONS = ("Parameters", "Fields", "Attributes", "Returns", "Raises")
_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*) : (?P<text>.*)")

_QUOTED = re.compile(r"``[^`]+``|`[^`]+`")
_NAME = re.compile(r"`[\w.]+(?:\(\))?`")
_PAGE = re.compile(r"\bdocs/([\w/-]+)\.md\b")


def convert_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Replace the sections of a docstring by field lists.

    A constant has no docstring of its own; that of its type says nothing about it.
    """
    if is_model(obj):
        lines += _field_lines(obj)
    elif isinstance(obj, type):
        _insert_inherited_parameters(obj, lines)
    text = "" if what == "data" else "\n".join(_converted(lines))
    text = _QUOTED.sub(_quoted, text.replace("|", r"\|"))
    lines[:] = _PAGE.sub(r":doc:`\g<0> </\1>`", text).splitlines()


def is_model(obj: object) -> TypeGuard[type[BaseModel]]:
    """Return whether an object is a class that pydantic checks."""
    return isinstance(obj, type) and issubclass(obj, BaseModel)


def _field_lines(model: type[BaseModel]) -> Iterator[str]:
    """Yield a section of the fields of a model, which have their meaning in the model."""
    if model.model_fields:
        yield from ("", "Fields", "------")
    for name, field in model.model_fields.items():
        yield f"{name} : {' '.join((field.description or '').split())}"


def _insert_inherited_parameters(kind: type, lines: list[str]) -> None:
    """Insert the section of parameters of a base class before the first section of a class."""
    for base in kind.__mro__[:-1]:
        documented = inspect.cleandoc(base.__doc__ or "").splitlines()
        if "Parameters" in documented:
            break
    else:
        return
    if base is kind or not _named_arguments(kind) <= _named_arguments(base):
        return
    section = documented[documented.index("Parameters") :]
    section = section[: section.index("")] if "" in section else section
    heads = [place for place, line in enumerate(lines) if line in _SECTIONS]
    place = heads[0] if heads else len(lines)
    lines[place:place] = ["", *section, ""]


def _named_arguments(kind: type) -> set[str]:
    """Return the names of the arguments of a constructor, without `*args` and `**others`."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(kind).parameters.items()
    return {name for name, parameter in parameters if parameter.kind not in variable}


def _quoted(match: re.Match[str]) -> str:
    """Return a quoted name as it is, so that it becomes a link; other code as a literal."""
    return match[0] if match[0][:2] == "``" or _NAME.fullmatch(match[0]) else f"`{match[0]}`"


def _converted(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a docstring with each section as a field list."""
    section = ""
    for number, line in enumerate(lines):
        follower = lines[number + 1] if number + 1 < len(lines) else ""
        if line in _SECTIONS and follower == "-" * len(line):
            section = line
            yield from (f":{section}:", "")
        elif section and line == "-" * len(section):
            continue
        elif section and (entry := _ENTRY.match(line)):
            form = ":py:exc:`{}`" if section == "Raises" else "**{}**"
            names = entry["names"].replace("*", r"\*").split(", ")
            yield f"    * {', '.join(map(form.format, names))} \N{EN DASH} {entry['text']}"
        else:
            yield f"      {line.strip()}" if section else line  # an entry goes on


def shorten_signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: Any,
    arguments: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Shorten the arguments of a class that pydantic checks: its fields are in tables elsewhere.

    The default of a field that a function makes is written as `...`, which Python can parse.
    """
    if is_model(obj):
        return "(**fields)", returned
    return arguments and arguments.replace("<factory>", "..."), returned


def is_skipped(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any
) -> bool | None:
    """Skip what pydantic adds to its classes, and fields, which the text of the class has.

    Sphinx passes a marker for an attribute that only instances have.
    """
    is_field = type(obj).__name__ in ("_Sentinel", "object")
    return True if is_field or name in ("model_config", "model_post_init") else None


def find_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Return a reference to the documented object that a short name means, or None.

    A word in a docstring may be an argument: it means a function only if it looks like one.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removesuffix("()")
    last = target.rpartition(".")[2]
    objects = env.domains.python_domain.objects
    looks_called = target != node["reftarget"] or "_" in target or "." in target
    kinds = ("class", "exception", "function") if looks_called else ("class", "exception")
    end = f".{target}" if "." in target else f"{node.get('py:class')}.{target}"
    found = [name for name in objects if name.endswith(end)]
    found = found or [
        name
        for name, entry in objects.items()
        if name.rpartition(".")[2] == last and entry.objtype in kinds
    ]
    if not found:
        return None
    name = min(found, key=lambda name: (name.count("."), name))
    entry = objects[name]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, [content], name)


class BreakableTitles(SphinxPostTransform):
    """Lets a title that is a dotted name break behind its dots, and not inside its words."""

    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        """Split the text of each such title."""
        for title in self.document.findall(nodes.title):
            if re.fullmatch(r"\w+(\.\w+)+", title.astext()):
                first, *others = title.astext().split(".")
                title[:] = [nodes.Text(first)]
                for name in others:
                    title += [nodes.raw("", ".<wbr>", format="html"), nodes.Text(name)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the functions of this file to the events of Sphinx."""
    app.connect("autodoc-process-docstring", convert_docstring)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", is_skipped)
    app.connect("missing-reference", find_public_name)
    app.add_post_transform(BreakableTitles)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
