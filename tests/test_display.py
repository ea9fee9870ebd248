"""A modulator on a display, with a real X server without a screen (Xvfb).

It has no vertical synchronisation, so timing must be verified on a bench.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightloom.instruments import Disconnected, InputError, InstrumentError, MissingExtraError
from lightloom.instruments.conformance import SlmConformance
from lightloom.instruments.drivers.display import DisplaySLM, DisplaySLMOptions, monitors
from waiting import wait_until

SHAPE = (403, 642)  # a row is not a multiple of 4 bytes

if shutil.which("Xvfb") is None:
    pytest.skip("Xvfb is not installed (Debian package xvfb)", allow_module_level=True)
for package in ("sdl2", "sdl2dll", "mss"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed", allow_module_level=True)


@contextlib.contextmanager
def x_server(*command: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Start an X server on a free display; yield its name and its process."""
    read, write = os.pipe()
    size = f"{SHAPE[1]}x{SHAPE[0]}x24"
    # without -noreset it restarts after the last window closes, and drops clients meanwhile
    command = command or ("Xvfb", "-screen", "0", size, "-br", "-noreset")
    with subprocess.Popen(
        [*command, "-displayfd", str(write), "-nolisten", "tcp"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    ) as server:
        os.close(write)
        try:
            with os.fdopen(read) as answer:
                number = answer.readline().strip()
            if not number:
                pytest.skip(f"{command[0]} does not start here")
            yield f":{number}", server
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def x_display() -> Iterator[str]:
    with x_server() as (name, _):
        yield name


def display(x_display: str, **options: Any) -> DisplaySLM:
    given = {"monitor": 0, "refresh_hz": 60, "settle_time_s": 0, "timeout_s": 1, **options}
    return DisplaySLM("weights", DisplaySLMOptions(x_display=x_display, **given))


def screenshot(x_display: str) -> np.ndarray:
    """Return the pixels of the screen: [height, width, 3]."""
    from mss import MSS
    from mss.exception import ScreenShotError

    for left in reversed(range(5)):  # a busy server sometimes refuses a connection
        try:
            with MSS(display=x_display) as screen:
                return np.asarray(screen.grab(screen.monitors[0]))[..., :3]
        except ScreenShotError:
            if not left:
                raise
            time.sleep(0.5)  # until the server is less busy
    raise AssertionError("unreachable")


def window_process(slm: Any) -> int:
    """Return the process id of a window, for tests of faults."""
    assert slm._window is not None and slm._window._process.pid
    return int(slm._window._process.pid)


@pytest.mark.slow  # a window each
class TestDisplaySLM(SlmConformance):
    @pytest.fixture
    def make(self, x_display: str) -> Callable[[], DisplaySLM]:
        self.x_display = x_display
        return lambda: display(x_display)

    def seen(self, instrument: Any) -> np.ndarray:
        picture = screenshot(instrument.options.x_display)
        assert (picture == picture[..., :1]).all(), "grey is to be grey"
        return picture[..., 0]

    @pytest.mark.slow
    def test_open_and_close_leak_nothing(self, make: Callable[[], DisplaySLM]) -> None:
        super().test_open_and_close_leak_nothing(make)

    def unplug(self, instrument: Any) -> None:
        os.kill(window_process(instrument), signal.SIGKILL)

    def mute(self, instrument: Any) -> None:
        os.kill(window_process(instrument), signal.SIGSTOP)


def test_every_grey_level_is_shown_as_it_is(x_display: str) -> None:
    # A look-up table measured through a display that changes levels would be wrong everywhere.
    frame = (np.arange(SHAPE[0] * SHAPE[1]) % 256).astype(np.uint8).reshape(SHAPE)
    with display(x_display, shape=SHAPE) as slm:
        slm.show(frame)
        difference = screenshot(x_display).astype(int) - frame[..., None]
    assert np.abs(difference).max() == 0


def test_clicks_and_keys_change_nothing(x_display: str) -> None:
    # slmsuite#117: a window whose events are not processed freezes at a click.
    if shutil.which("xdotool") is None:
        pytest.skip("xdotool is not installed (Debian package xdotool)")
    draw = np.random.default_rng(0)
    with display(x_display) as slm:
        for keys in ("space", "Escape", "F11", "alt+F4", "ctrl+c"):
            click = ["xdotool", "mousemove", "100", "100", "click", "1", "key", keys]
            subprocess.run(click, check=True, env={**os.environ, "DISPLAY": x_display})
            time.sleep(0.1)  # until the click has arrived, which no event reports
            frame = draw.integers(0, 256, SHAPE).astype(np.uint8)
            slm.show(frame)
            assert (screenshot(x_display) == frame[..., None]).all(), keys


def test_a_lost_display_is_reported() -> None:
    # A run would continue with a modulator whose cable is unplugged.
    with x_server() as (name, server), display(name) as slm:
        server.kill()
        server.wait()
        with pytest.raises(Disconnected, match="weights: the window's process has ended"):
            for _ in range(100):
                slm.blank()


TWO_MONITORS = """
Section "Device"
  Identifier "card"
  Driver "dummy"
  VideoRam 64000
EndSection
Section "Screen"
  Identifier "screen"
  Device "card"
  DefaultDepth 24
  SubSection "Display"
    Depth 24
    Virtual 1824 768
  EndSubSection
EndSection
"""


def test_a_disabled_monitor_is_reported_and_the_other_is_not(tmp_path: Path) -> None:
    # Two modulators on one graphics card: each must get its own frames and its own errors.
    for program, package in (("Xorg", "xserver-xorg-video-dummy"), ("xrandr", "x11-xserver-utils")):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian package {package})")
    (tmp_path / "xorg.conf").write_text(TWO_MONITORS)
    command = ["Xorg", "-config", str(tmp_path / "xorg.conf"), "-noreset", "-logfile"]
    command += [str(tmp_path / "log"), "-sharevts", "-novtswitch"]
    with x_server(*command) as (name, _):
        xrandr(name, "--addmode", "DUMMY1", "800x600")
        xrandr(name, "--output", "DUMMY1", "--mode", "800x600", "--right-of", "DUMMY0")
        if len(monitors(name)) != 2:
            pytest.skip("the X server's driver `dummy` has no second monitor here")
        first, second = display(name, monitor=0), display(name, monitor=1, refresh_hz=None)
        with first, second:
            assert second.shape == (600, 800)
            draw = np.random.default_rng(0)
            frames = [draw.integers(0, 256, slm.shape).astype(np.uint8) for slm in (first, second)]
            first.show(frames[0])
            second.show(frames[1])
            picture, (height, width) = screenshot(name)[..., 0], first.shape
            assert (picture[:height, :width] == frames[0]).all()
            assert (picture[:600, width:] == frames[1]).all()
            xrandr(name, "--output", "DUMMY1", "--off")
            with pytest.raises(Disconnected, match=r"weights: monitor 1 \(DUMMY1, .* was lost"):
                second.blank()
            first.blank()


def xrandr(x_display: str, *arguments: str) -> None:
    environment = {**os.environ, "DISPLAY": x_display}
    for what in (arguments, ("--query",)):  # a query makes the server detect its monitors again
        subprocess.run(["xrandr", *what], check=True, env=environment, stdout=subprocess.DEVNULL)


def test_monitors_that_overlap_are_refused() -> None:
    # The frames of one modulator would appear on the other.
    screens = ("-screen", "0", "640x480x24", "-screen", "1", "800x600x24")
    with (
        x_server("Xvfb", *screens) as (name, _),
        pytest.raises(InstrumentError, match="for monitor 1 appeared on monitor 0"),
    ):
        display(name, monitor=1).connect()


def test_a_killed_driver_ends_its_window(x_display: str) -> None:
    # A window that outlives its program would occupy the monitor.
    script = (
        "import threading\n"
        "from lightloom.instruments.drivers.display import DisplaySLM, DisplaySLMOptions\n"
        "if __name__ == '__main__':\n"
        f"    options = DisplaySLMOptions(x_display={x_display!r}, monitor=0, refresh_hz=60)\n"
        "    slm = DisplaySLM('weights', options).connect()\n"
        "    print(slm._window._process.pid, flush=True)\n"
        "    threading.Event().wait(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        window = int(program.stdout.readline())
        program.kill()
    wait_until(lambda: not is_running(window))


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_monitor_that_does_not_exist_is_named(x_display: str) -> None:
    with pytest.raises(
        InputError, match=r"weights: there is no monitor 3; this machine has 1, .*0"
    ):
        display(x_display, monitor=3).connect()


def test_a_monitor_of_another_size_is_refused(x_display: str) -> None:
    # A scaled frame would mix the levels of neighbouring pixels.
    with pytest.raises(InputError, match=r"403 x 642\) does not have the shape \(1152, 1920\)"):
        display(x_display, shape=(1152, 1920)).connect()


def test_a_monitor_without_a_refresh_rate_asks_for_one(x_display: str) -> None:
    with pytest.raises(InputError, match="give refresh_hz"):
        display(x_display, refresh_hz=None).connect()


def test_monitors_are_listed(x_display: str) -> None:
    (monitor,) = monitors(x_display)
    assert (monitor.index, monitor.shape) == (0, SHAPE)


def test_no_display_is_one_sentence() -> None:
    with pytest.raises(InstrumentError, match="weights: no display can be opened"):
        display(":61234").connect()


def test_a_missing_library_is_one_sentence(
    x_display: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sdl2.py").write_text("raise ImportError('no such package')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"weights.*pip install 'lightloom\[display\]'"):
        display(x_display).connect()


def test_a_signal_to_the_process_group_leaves_the_window(x_display: str) -> None:
    # SIGTERM to a whole group killed the window before it was darkened: the desktop was shown.
    with display(x_display) as slm:
        slm.show(np.full(SHAPE, 255, np.uint8))
        window = window_process(slm)
        assert os.getpgid(window) == window != os.getpgid(0)
        slm.darken()
        assert screenshot(x_display).max() == 0
