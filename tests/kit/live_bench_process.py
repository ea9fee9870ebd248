"""Opens a bench of the drivers' templates and a real source, lights it, and then does something.

python live_bench_process.py BENCH ACT        prints "lit" once the light is on
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Any

from bench_factory import changed
from lightloom.backends.bench import Bench
from lightloom.instruments import LightloomError, registry
from lightloom.instruments.safety import signals
from lightloom.instruments.templates.echo import DEVICES

# a package of a laboratory: it registers the drivers' templates by entry points
TEMPLATES = str(Path(__file__).parent / "template_drivers")

FILE = """
schema = 1
layout = "single-pixel"
coherence = "incoherent"
exposure_s = "0.002 s"
[limits]
timeout_s = "20 s"
[instruments.input]
driver = "template-slm"
serial = "input"
[instruments.weight]
driver = "template-slm"
serial = "weight"
[instruments.detector]
driver = "template-daq"
[instruments.source]
driver = "scpi-source"
watts_per_unit = 1e-3
max_power_w = "5 mW"
commands = { open_shutter = "SHUT ON", close_shutter = "SHUT OFF" }
"""


@contextmanager
def drivers_in_memory(monkeypatch: Any) -> Iterator[None]:
    """Let bench files name the drivers' templates."""
    monkeypatch.syspath_prepend(TEMPLATES)
    registry.drivers.cache_clear()
    DEVICES.clear()
    yield
    registry.drivers.cache_clear()


def write(folder: Path, address: str, **changes: Any) -> Path:
    """Write the file of a bench whose source has this address, changed as `changed` does."""
    path = folder / "bench.toml"
    text = changed(FILE, instruments__source__address=address, **changes)
    path.write_text(text, encoding="utf-8")
    return path


def watchdog_process(bench: Bench) -> int:
    """Return the number of a bench's watchdog process, which only a fault is to end or stop."""
    assert bench._watchdog is not None
    return bench._watchdog._process.pid


def stay() -> None:
    """Stay until the test ends this process, for a minute at most."""
    threading.Event().wait(60)


def fork() -> None:
    """Leave a process behind that inherits every open file."""
    if os.fork() == 0:
        stay()
        os._exit(0)
    print("forked", flush=True)
    stay()


def take_shots(bench: Bench) -> None:
    while True:
        bench.shots += 1
        time.sleep(0.01)  # what a shot takes


def go_on_after_ctrl_c() -> None:
    with signals.interrupt_ends_block():
        print("waits", flush=True)
        stay()
    print("goes on", flush=True)
    stay()


def hold_the_source(bench: Bench) -> None:
    """Ask the source in a thread, again and again, and wait for that."""

    def ask() -> None:
        while True:
            bench.source.is_emitting()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join()


def compute() -> None:
    """Compute in one step of Python, and say so once the main thread is deep in it."""
    began_s = time.process_time()

    def say() -> None:
        while time.process_time() < began_s + 0.05:
            time.sleep(0.005)  # the processor's time is nothing that one can wait for
        print("computes", flush=True)

    threading.Thread(target=say, daemon=True).start()
    pbkdf2_hmac("sha256", b"deep in", b"arithmetic", 100_000_000)


def main() -> None:
    from lightloom.backends.bench import load_bench

    sys.path.insert(0, TEMPLATES)
    signals.listen()
    path, act = sys.argv[1:]
    try:
        with load_bench(path) as bench:
            bench.source.enable()
            print("lit", watchdog_process(bench), flush=True)
            acts = {
                "wait": stay,
                "end": lambda: None,
                "raise": lambda: 1 / 0,
                "fork": fork,
                "compute": compute,
                "shots": lambda: take_shots(bench),
                "meant": go_on_after_ctrl_c,
                "hold": lambda: hold_the_source(bench),
            }
            acts[act]()
    except LightloomError as error:
        print(f"lightloom: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(signals.STATUS)


if __name__ == "__main__":
    main()
