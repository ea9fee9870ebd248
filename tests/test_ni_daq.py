"""The driver for NI cards with the documented calls of nidaqmx, whose signatures are checked.

Not yet run on hardware, because the driver of NI is not available here.
"""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightloom.instruments import (
    Disconnected,
    InputError,
    InstrumentError,
    InstrumentTimeout,
    InUse,
    LimitExceeded,
    MissingExtraError,
    create,
)
from pytest_mock import MockerFixture


def nidaqmx() -> Any:
    return pytest.importorskip(
        "nidaqmx", reason="nidaqmx is not installed: pip install 'lightloom[ni]'"
    )


class Cards:
    """One card, "Dev1", and the tasks that were made for it."""

    def __init__(self, mocker: MockerFixture) -> None:
        ni, self.mocker, self.tasks = nidaqmx(), mocker, []
        self.card = mocker.create_autospec(ni.system.Device, instance=True)
        for attribute, names in {
            "ai_physical_chans": ["Dev1/ai0", "Dev1/ai1", "Dev1/ai2"],
            "ao_physical_chans": ["Dev1/ao0"],
            "do_lines": ["Dev1/port0/line0", "Dev1/port0/line1"],
            "ci_physical_chans": ["Dev1/ctr0", "Dev1/ctr1"],
        }.items():
            setattr(self.card, attribute, [SimpleNamespace(name=name) for name in names])
        self.card.name, self.card.product_type, self.card.serial_num = "Dev1", "USB-6363", 0x1F2E
        self.card.ai_min_rate, self.card.ai_max_single_chan_rate = 1.0, 2e6
        self.card.ai_max_multi_chan_rate = 1e6
        self.card.ai_simultaneous_sampling_supported = False
        self.card.ao_voltage_rngs = [-5.0, 5.0, -10.0, 10.0]
        local = mocker.patch.object(ni.system.System, "local")
        local.return_value.devices = [self.card]
        self.values: Any = [0.0]
        self.task_class = ni.Task
        mocker.patch.object(ni, "Task", side_effect=self.make)

    def make(self) -> Any:
        ni = nidaqmx()
        collections = pytest.importorskip("nidaqmx.task.collections")
        task = self.mocker.create_autospec(self.task_class, instance=True)
        task.__enter__.return_value = task
        task.__exit__.side_effect = lambda *_: bool(task.close() and False)
        task.timing = self.mocker.create_autospec(ni.task.Timing, instance=True)
        task.timing.samp_clk_rate = 999.0
        for kind in ("AI", "AO", "DI", "DO", "CI"):
            spec = getattr(collections, f"{kind}ChannelCollection")
            setattr(
                task, f"{kind.lower()}_channels", self.mocker.create_autospec(spec, instance=True)
            )
        task.read.side_effect = lambda *_, **__: self.answer()
        self.tasks.append(task)
        return task

    def answer(self) -> Any:
        if isinstance(self.values, Exception):
            raise self.values
        return self.values


@pytest.fixture
def cards(mocker: MockerFixture) -> Cards:
    return Cards(mocker)


def daq(**options: Any) -> Any:
    return create("ni-daq", "daq", {"address": "Dev1", **options})


def test_a_scan_is_one_finite_task(cards: Cards) -> None:
    # An operator would get volts of other channels, or of another range.
    constants = nidaqmx().constants
    cards.values = [[0.1, 0.2], [0.3, 0.4]]
    with daq(low_v=-1, high_v="1 V", terminals="diff") as instrument:
        assert instrument.identity.model == "USB-6363" and instrument.identity.serial == "1F2E"
        samples = instrument.read((2, 0), 2, 1000.0, timeout_s=3)
    assert np.array_equal(samples.volts, cards.values) and samples.rate_hz == 999.0
    (task,) = cards.tasks
    added = [call.args[0] for call in task.ai_channels.add_ai_voltage_chan.call_args_list]
    assert added == ["Dev1/ai2", "Dev1/ai0"]
    assert task.ai_channels.add_ai_voltage_chan.call_args.kwargs == {
        "terminal_config": constants.TerminalConfiguration.DIFF,
        "min_val": -1.0,
        "max_val": 1.0,
    }
    task.timing.cfg_samp_clk_timing.assert_called_once_with(
        1000.0, sample_mode=constants.AcquisitionType.FINITE, samps_per_chan=2
    )
    task.read.assert_called_once_with(number_of_samples_per_channel=2, timeout=3)
    task.close.assert_called_once_with()


def test_a_single_sample_needs_no_clock(cards: Cards) -> None:
    # An operator could not read one voltage: the sample clock needs two samples or more.
    cards.values = [1.5]
    with daq() as instrument:
        assert instrument.read().volts.tolist() == [[1.5]]
    cards.tasks[0].timing.cfg_samp_clk_timing.assert_not_called()


def test_channels_share_a_converter(cards: Cards) -> None:
    # An operator would exceed the card and get an error of a library.
    cards.values = [[0.0, 0.0]] * 2
    with daq() as instrument:
        instrument.read((0, 1), 2)
        assert cards.tasks[0].timing.cfg_samp_clk_timing.call_args.args == (5e5,)
        with pytest.raises(LimitExceeded, match="daq"):
            instrument.read((0, 1), 2, 6e5)
        assert len(cards.tasks) == 1


def test_outputs_lines_and_counters(cards: Cards) -> None:
    # An operator would set another terminal.
    with daq(counters=1) as instrument:
        (counter,) = cards.tasks
        counter.ci_channels.add_ci_count_edges_chan.assert_called_once_with("Dev1/ctr0")
        counter.start.assert_called_once_with()
        instrument.write(0, 2.0)
        written = cards.tasks[1]
        written.ao_channels.add_ao_voltage_chan.assert_called_once_with(
            "Dev1/ao0", min_val=-10.0, max_val=10.0
        )
        written.write.assert_called_once_with(2.0, auto_start=True)
        instrument.set_line(1, True)
        cards.tasks[2].do_channels.add_do_chan.assert_called_once_with("Dev1/port0/line1")
        cards.tasks[2].write.assert_called_once_with(True, auto_start=True)
        cards.values = True
        assert instrument.read_line(0) is True
        cards.tasks[3].di_channels.add_di_chan.assert_called_once_with("Dev1/port0/line0")
        cards.values = 42
        assert instrument.count() == 42
        instrument.reset_count()
        counter.close.assert_called_once_with()
    assert all(task.close.call_count == 1 for task in cards.tasks)


def test_nothing_is_set_beyond_the_limits(cards: Cards) -> None:
    # An operator would get a voltage beyond the limit.
    with daq() as instrument:
        for call in (
            lambda: instrument.write(0, 10.1),
            lambda: instrument.write(1, 0.0),
            lambda: instrument.set_line(2, True),
            lambda: instrument.count(2),
            lambda: instrument.read((3,)),
            lambda: instrument.read((0,), 10, 3e6),
        ):
            with pytest.raises(LimitExceeded, match="daq"):
                call()
    assert not cards.tasks


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (-200284, InstrumentTimeout),
        (-50103, InUse),
        (-200022, InUse),
        (-201003, Disconnected),
        (-200279, InstrumentError),
    ],
)
def test_errors_of_the_library_become_ours(
    cards: Cards, number: int, kind: type[Exception]
) -> None:
    # A run would not know whether to retry, to stop or to pause for the operator.
    cards.values = nidaqmx().errors.DaqError("Something\n\nhappened", number)
    with daq() as instrument, pytest.raises(kind, match=r"daq .* failed at read") as caught:
        instrument.read((0,), 5, 1000.0)
    assert "\n" not in str(caught.value)
    cards.tasks[0].close.assert_called_once_with()


def test_a_missing_card_is_named(cards: Cards) -> None:
    # An operator would not learn the name of the card.
    with pytest.raises(Disconnected, match="no card 'Dev7'; NI-DAQmx knows Dev1"):
        daq(address="Dev7").connect()
    with pytest.raises(LimitExceeded, match="2 counters, not 3"):
        daq(counters=3).connect()


def test_an_inverted_range_is_refused() -> None:
    # An operator would look for the mistake in the card.
    with pytest.raises(InputError, match="low_v"):
        daq(low_v=1, high_v=-1)


def test_without_the_package_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    # An operator would get a traceback instead of a command to install.
    monkeypatch.setitem(sys.modules, "nidaqmx", None)
    with pytest.raises(MissingExtraError, match=r"daq .*pip install 'lightloom\[ni\]'"):
        daq().connect()


def test_without_the_ni_driver_there_is_one_sentence() -> None:
    # An operator would believe that the package is sufficient.
    import importlib

    try:
        importlib.import_module("nidaqmx.system").System.local().devices.device_names  # noqa: B018
    except nidaqmx().errors.Error:
        with pytest.raises(MissingExtraError, match=r"daq needs NI's driver NI-DAQmx") as caught:
            daq().connect()
        assert "\n" not in str(caught.value)
    else:
        pytest.skip("NI's driver is installed here")
