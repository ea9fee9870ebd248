"""Tables show what they hold: aligned, with units, and nothing that steers a terminal."""

import dataclasses
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from lightloom.instruments.formatting import format_duration
from lightloom.instruments.table import Column, Styled, Table, as_html, plain_text
from lightloom.scheduler.runs.tables import step_table

import lightloom
from lightloom.report.terminal.console import PrintableConsole, as_rich

COLUMNS = (Column("bench", align="left"), Column("rate", "shots/s", form=".1f"), Column("limit"))


def test_columns_line_up_and_have_their_units() -> None:
    table = Table("Shot rates", COLUMNS, (("60 Hz", 29.97, "30"), ("1 kHz, long", 480.0, None)))
    assert plain_text(table).split("\n") == [
        "Shot rates",
        "bench        rate, shots/s  limit",
        "60 Hz                 30.0     30",
        "1 kHz, long          480.0      -",
    ]


def test_a_table_without_title_or_rows_has_its_header() -> None:
    assert plain_text(Table("", COLUMNS, ())) == "bench  rate, shots/s  limit"


def test_a_name_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in plain_text(Table("", COLUMNS[:1], (("\x1b[2Jmodel",),)))


def test_a_table_is_not_changed_after_it_is_made() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Table("", (), ()).title = "another"  # type: ignore[misc]


def test_a_page_shows_every_text_of_a_table_escaped() -> None:
    columns = (Column("<model>", align="left"), Column("rate", form=format_duration))
    row = (Styled("a & b", "bad"), 0.5)
    shown = as_html(Table("<title>", columns, (row,), ("all", None), "<caption>"))
    assert "<caption>&lt;title&gt;</caption>" in shown and "<p>&lt;caption&gt;</p>" in shown
    assert "<th>&lt;model&gt;</th>" in shown
    assert '<td class="bad">a &amp; b</td><td class="number">500 ms</td>' in shown
    assert '<tr class="total"><td>all</td><td class="number">-</td></tr>' in shown


def on_terminal(table: Table, width: int = 60) -> list[str]:
    stream = io.StringIO()
    PrintableConsole(stream, width).print(as_rich(table))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_terminal_shows_a_table_with_its_title_and_its_caption() -> None:
    rows = (("60 Hz [bold]", 29.97, Styled("30", "good")), ("1 kHz", 480.0, None))
    assert on_terminal(Table("[Rates]", COLUMNS, rows, ("all", 509.97, ""), "of [both]")) == [
        "[Rates]",
        "",
        " bench         rate, shots/s  limit",
        " ──────────────────────────────────",
        " 60 Hz [bold]           30.0     30",
        " 1 kHz                 480.0      -",
        "",
        " all                   510.0",
        "",
        "of [both]",
    ]


def test_a_terminal_sets_groups_apart() -> None:
    rows = (("light", 1.0), ("light", 2.0), ("host", 3.0))
    table = Table("", COLUMNS[:2], rows, grouped_by=0)
    shown = [line.split()[0] if line else "" for line in on_terminal(table)]
    assert shown[3:] == ["light", "light", "", "host", ""]


def test_a_text_that_may_wrap_takes_several_lines() -> None:
    text = "a long text of many words"
    for wraps, count in ((True, 3), (False, 1)):
        column = Column("what", align="left", wraps=wraps)
        assert len(on_terminal(Table("", (column,), ((text,),)), 12)) == 4 + count


@pytest.mark.parametrize("show", [plain_text, as_html, as_rich])
def test_every_renderer_refuses_a_row_of_another_length(show: Callable[[Table], object]) -> None:
    with pytest.raises(ValueError, match="zip"):
        show(Table("", COLUMNS, (("60 Hz", 1.0),)))


# --- plans and reports in a notebook --------------------------------------------------------------


def test_a_notebook_shows_a_plan_with_equal_layers_once() -> None:
    shown = lightloom.plan(lightloom.load_model(), "mock", batch=4)._repr_html_()
    assert "digits, mock, bench profile slm-camera" in shown and "nothing was run" in shown
    assert "<td>0.attention.qk</td>" in shown and "<td>1.attention.qk</td>" not in shown
    assert "bottleneck" in shown and "<script" not in shown


def test_a_notebook_shows_a_report_marked_as_mock() -> None:
    images = np.zeros((2, 1, 8, 8), dtype=np.float32)
    run = lightloom.plan(lightloom.load_model(), "mock", batch=2).run(images)
    shown = replace(run.report(), model="<b>mine</b>", remarks=("<i>",))._repr_html_()
    assert shown.startswith("<p><b>&lt;b&gt;mine&lt;/b&gt; on the mock backend, MOCK</b></p>")
    for promised in ("softmax", "agreement with digital", "images per second", "Energy per image"):
        assert promised in shown, promised
    assert "<p>&lt;i&gt;</p>" in shown and "<script" not in shown
    assert "digits on the mock backend, MOCK" in run._repr_html_()


def test_what_overlaps_is_said_below_the_steps() -> None:
    step = {"kind": "MLP", "where": "optical", "macs": 10, "operations": 20}
    steps = [step | {"seconds_here": 2.0, "seconds_bench": None}]
    assert "more than the 1.5 s that the run took" in step_table(steps, None, 1.5).caption
    assert "overlap" not in step_table(steps, None, 3.0).caption
