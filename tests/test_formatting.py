"""If these fail, one figure is shown in two ways, or with a unit that is a thousand times off."""

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightloom.instruments.formatting import (
    format_bar,
    format_count,
    format_counted,
    format_duration,
    format_field,
    format_measured,
    format_moment,
    format_number,
    format_quantity,
    format_ratio,
    format_value,
)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "J", "-"),
        (0.0, "J", "0 J"),
        (-0.0, "J", "0 J"),
        (3e-6, "J", "3 µJ"),
        (4.2e13, "J", "42 TJ"),
        (1.234e-17, "J", "12.3 aJ"),
        (1e-15, "J", "1 fJ"),
        (1.5e-12, "J", "1.5 pJ"),
        (7e-9, "s", "7 ns"),
        (2.5e-3, "W", "2.5 mW"),
        (1.0, "W", "1 W"),
        (32_000.0, "J", "32 kJ"),
        (1.5e6, "Hz", "1.5 MHz"),
        (2e9, "Hz", "2 GHz"),
        (3e15, "1/s", "3 P1/s"),
        (4.56e18, "J", "4.56 EJ"),
        (4.5e22, "J", "4.5e+04 EJ"),  # beyond the largest prefix
        (1e-21, "J", "0.001 aJ"),  # below the smallest
        (5e-324, "J", "4.94e-306 aJ"),
        (999.4, "J", "999 J"),
        (999.6, "J", "1 kJ"),  # the prefix fits the digits that are shown
        (-999.6e-3, "V", "-1 V"),
        (-2.5e-3, "V", "-2.5 mV"),
        (math.inf, "J", "inf J"),
        (-math.inf, "J", "-inf J"),
        (math.nan, "J", "nan J"),
        (0.5, "1", "0.5"),
        (12_000.0, "1", "12,000"),
        (123_456_789, "B", "123 MB"),
        (np.float32(0.002), "J", "2 mJ"),
    ],
)
def test_quantity(value: float | None, unit: str, text: str) -> None:
    assert format_quantity(value, unit) == text


@pytest.mark.parametrize("power", range(-18, 21))
def test_quantity_has_a_prefix_of_every_size(power: int) -> None:
    number, prefixed = format_quantity(10.0**power, "J").split()
    size = dict(zip("afpnµm kMGTPE", range(-18, 21, 3), strict=True))[prefixed[:-1] or " "]
    assert float(number) * 10.0**size == pytest.approx(10.0**power) and 1 <= float(number) < 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (0.25, "0.25"),
        (7, "7"),
        (999, "999"),
        (999.6, "1 k"),
        (1000, "1 k"),
        (-1500, "-1.5 k"),
        (124_439_808, "124 M"),
        (175e9, "175 G"),
        (2.5e14, "250 T"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_count(value: float, text: str) -> None:
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0 s"),
        (3e-10, "300 ps"),
        (4.7e-5, "47 µs"),
        (0.0054, "5.4 ms"),
        (1.0, "1 s"),
        (119.6, "120 s"),
        (120.0, "2 min"),
        (7199.0, "120 min"),
        (7200.0, "2 h"),
        (86_400.0, "24 h"),
        (172_800.0, "2 d"),
        (86_400.0 * 12_345, "12,345 d"),
        (-7200.0, "-2 h"),
        (-0.002, "-2 ms"),
        (math.inf, "inf s"),
        (math.nan, "nan s"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.001234, "0.00123"),
        (99.96, "100"),
        (1234.5, "1,234"),
        (-1234.5, "-1,234"),
        (9_999_999, "9,999,999"),
        (1e7, "1e+07"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_number_and_ratio(value: float, text: str) -> None:
    assert format_number(value) == text
    assert format_ratio(value) == f"{text}x"


def test_ratio_that_is_not_known() -> None:
    assert format_ratio(None) == "-"


def test_moment_is_in_utc() -> None:
    at = datetime(2026, 3, 1, 1, 2, 3, 456, tzinfo=timezone(timedelta(hours=2)))
    assert format_moment(at) == "2026-02-28 23:02:03 UTC"
    assert format_moment(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01 00:00:00 UTC"
    assert format_moment(86_400.5) == "1970-01-02 00:00:00 UTC"


@pytest.mark.parametrize(
    ("value", "uncertainty", "texts"),
    [
        (2.34567, 0.0123, ("2.346", "0.012")),
        (12345.6, 120.0, ("12,346", "120")),
        (2.3e-7, 1e-8, ("2.30 × 10⁻⁷", "0.10 × 10⁻⁷")),
        (1.000123, None, ("1.0001", "")),
        (12.0, None, ("12", "")),
        (0.0, 0.002, ("0.0000", "0.0020")),
        (0.0, None, ("0", "")),
        (-3.5, float("inf"), ("-3.5000", "inf")),
        (float("nan"), None, ("nan", "")),
        (5e-324, None, ("4.941e-324", "")),
    ],
)
def test_numbers_are_shown_to_what_is_known_of_them(
    value: float, uncertainty: float | None, texts: tuple[str, str]
) -> None:
    assert format_measured(value, uncertainty) == texts


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(), st.none() | st.floats())
def test_any_number_is_shown(value: float, uncertainty: float | None) -> None:
    assert format_measured(value, uncertainty)[0]
    assert format_quantity(value, "J").endswith("J") and format_duration(value)
    assert format_count(value) and format_number(value)


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (1, ("step",), "1 step"),
        (0, ("step",), "0 steps"),
        (2001, ("shot",), "2,001 shots"),
        (1, ("pass", "passes"), "1 pass"),
        (3, ("pass", "passes"), "3 passes"),
    ],
)
def test_counts_have_their_noun(count: int, words: tuple[str, ...], text: str) -> None:
    assert format_counted(count, *words) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "yes"),
        (False, "no"),
        (3, "3"),
        (1e5, "100000"),
        (0.25, "0.25"),
        ("per-row", "per-row"),
        ([1, 2.5, None], "1, 2.5, none"),
    ],
)
def test_value(value: object, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("exposure_s", 1e-3, "1 ms"),
        ("wavelength_m", 532e-9, "532 nm"),
        ("host_operations_per_s", 2e10, "20 G/s"),
        ("host_bytes_per_s", 1e10, "10 GB/s"),
        ("hold_power_w", 24.0, "24 W"),
        ("adc_j", 3.17e-12, "3.17 pJ"),
        ("read_noise_e", 10.0, "10 e"),
        ("photons_full_scale", 1e5, "100,000"),
        ("rows", 64, "64"),
        ("encoding", "abs-split", "abs-split"),
    ],
)
def test_field(name: str, value: object, text: str) -> None:
    assert format_field(name, value) == text


@pytest.mark.parametrize(
    ("share", "length"), [(0.0, 0), (0.004, 0), (0.006, 1), (0.5, 15), (1.0, 30)]
)
def test_bar(share: float, length: int) -> None:
    assert format_bar(share) == "█" * length
