"""Charts of pages: the same data give the same bytes, in colours that follow the page."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from journal_factory import recorded_on_the_mock
from lightloom.benchmarks.__main__ import app as studies
from typer.testing import CliRunner

from lightloom.cli.app import app
from lightloom.report.charts import Bar, Line, bar_chart, time_chart

NASTY = "a </text> & $x_1$ \x1b[2J"


def course(label: str = "shots over time") -> str:
    middle = np.array([1.0, 2.0, np.nan, 4.0, np.nan])
    return time_chart(label, 0.5, 2.5, Line(middle, middle - 1, middle + 1), [1.0], (3.0, "full"))


def bars() -> str:
    return bar_chart("bars", [Bar(NASTY, {"light": 3.0, "host": 1.0}, "4 s"), Bar("b", {"": 2.0})])


def names(chart: str) -> set[str]:
    return {e.get("id", "") for e in ElementTree.fromstring(chart).iter() if e.get("id")}


def test_a_chart_is_reproducible_and_its_names_are_its_own() -> None:
    assert course() == course() and bars() == bars()
    assert not names(course()) & names(bars())
    assert not names(course()) & names(course("another"))
    for chart in (course(), bars()):
        used = set(re.findall(r'(?:href="|url\()#([^")]*)', chart))
        assert used <= names(chart)


def test_a_chart_follows_the_colours_of_its_page() -> None:
    for chart in (course(), bars()):
        assert "var(--ink)" in chart and "var(--blue)" in chart
        assert not re.search(r": #[0-9a-f]{6}", chart)


def test_a_chart_has_a_label_and_texts_as_they_are() -> None:
    root = ElementTree.fromstring(bars())
    assert (root.get("role"), root.get("aria-label")) == ("img", "bars")
    texts = [element.text for element in root.iter("text")]
    assert "a </text> & $x_1$ \\x1b[2J" in texts and {"light", "host", "4 s"} <= set(texts)
    assert "dashed: full" in [e.text for e in ElementTree.fromstring(course()).iter("text")]


COMMANDS = {
    "report": (["report", "run.db"], "jinja2", "matplotlib"),
    "energy": (["energy", "--no-machine", "--html", "energy.html"], "jinja2", "matplotlib"),
    "benchmark": (["benchmark", "--repeats", "1", "--picture", "picture.svg"], "matplotlib"),
    "scaling": (["scaling", "family", "--picture", "picture.svg"], "matplotlib"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_without_the_extra_one_sentence_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `energy --html` printed its account first, and `scaling` measured for hours
    monkeypatch.chdir(tmp_path)
    if name == "report":
        recorded_on_the_mock(tmp_path / "run.db", 1)
    before = sorted(tmp_path.iterdir())
    arguments, *packages = COMMANDS[name]
    for package in packages:
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)
            done = CliRunner().invoke(studies if name == "scaling" else app, arguments)
        assert done.exit_code == 2 and done.stdout == ""
        assert "pip install 'lightloom[report]'" in done.stderr
        assert done.stderr.count("\n") == 1 and f"'{package}'" in done.stderr
    assert sorted(tmp_path.iterdir()) == before
