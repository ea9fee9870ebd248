"""Tables show what they hold: aligned, with units, and nothing that steers a terminal."""

import dataclasses

import pytest
from lightloom.instruments.table import Column, Table, plain_text

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


def test_a_row_of_another_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        plain_text(Table("", COLUMNS, (("60 Hz", 1.0),)))


def test_a_name_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in plain_text(Table("", COLUMNS[:1], (("\x1b[2Jmodel",),)))


def test_a_table_is_not_changed_after_it_is_made() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Table("", (), ()).title = "another"  # type: ignore[misc]
