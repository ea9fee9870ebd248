"""HTML pages of results: one file, no network, no scripts; light, dark and on paper.

A page is a template in the folder `templates` and plain data; every text is escaped there.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..instruments.errors import import_extra
from ..instruments.files import check_output, write_output
from ..instruments.formatting import format_counted, format_duration
from ..instruments.table import as_html
from ..instruments.text import printable
from .charts import PALETTE

_TEMPLATES = Path(__file__).parent / "templates"


def check_page(path: str | Path, kind: str) -> None:
    """Check before the work starts that a page, or a picture of one, can be made and written.

    Parameters
    ----------
    kind : of page, by which a later one may replace it (see `files.check_output`)

    Raises
    ------
    InputError : when it could not be written
    MissingExtraError : without jinja2 or matplotlib
    """
    check_output(path, kind)
    for package in ("jinja2", "matplotlib"):
        import_extra(package, "report", "writing a page")


def render(template: str, kind: str, **data: Any) -> str:
    """Return a page, its control characters written out.

    Parameters
    ----------
    template : name of a file in the folder `templates`
    kind : see `check_page`
    data : by the names that the template uses

    Raises
    ------
    MissingExtraError : without jinja2
    """
    return printable(_environment().get_template(template).render(kind=kind, **data))


@cache
def _environment() -> Any:
    jinja2 = import_extra("jinja2", "report", "writing a page")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "as_html": as_html,
        "counted": format_counted,
        "duration": format_duration,
        "whole": "{:,.0f}".format,
    }
    environment.globals["palette"] = PALETTE
    return environment


def write_page(path: str | Path, content: str, kind: str) -> None:
    """Write a page, or a picture of one.

    Raises
    ------
    InputError : when it cannot be written, or something else is there
    """
    write_output(path, content.encode("utf-8", "replace"), kind)
