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

from lightloom.instruments import LightloomError, registry, stopping
from lightloom.instruments.templates.echo import DEVICES

TEMPLATES = {
    "template-slm": "templates.slm:TemplateSLM",
    "template-daq": "templates.daq:TemplateDaq",
}

FILE = """
schema = 1
layout = "block"
coherence = "incoherent"
exposure_s = "{exposure_s} s"
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
address = "{address}"
watts_per_unit = 1e-3
max_power_w = "5 mW"
commands = {{ open_shutter = "SHUT ON", close_shutter = "SHUT OFF" }}
"""


@contextmanager
def drivers_in_memory(monkeypatch: Any) -> Iterator[None]:
    """Let bench files name the drivers' templates."""
    monkeypatch.setattr(registry, "_OURS", registry._OURS | TEMPLATES)
    registry._points.cache_clear()
    DEVICES.clear()
    yield
    registry._points.cache_clear()


def write(folder: Path, address: str, more: str = "", exposure_s: float = 0.002) -> Path:
    path = folder / "bench.toml"
    path.write_text(FILE.format(address=address, exposure_s=exposure_s) + more, encoding="utf-8")
    return path


def forked() -> None:
    """Leave a process behind that inherits every open file."""
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)


def take_shots(bench) -> None:
    while True:
        bench.shots += 1
        time.sleep(0.01)


def go_on_after_ctrl_c() -> None:
    with stopping.one_is_meant():
        print("waits", flush=True)
        time.sleep(30)
    print("goes on", flush=True)
    time.sleep(30)


def hold_the_source(bench) -> None:
    """Ask the source in a thread, again and again, and wait for that."""

    def ask() -> None:
        while True:
            bench.source.is_emitting()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join()


def compute() -> None:
    pbkdf2_hmac("sha256", b"deep in", b"arithmetic", 100_000_000)


def main() -> None:
    from lightloom.backends.bench import load_bench

    registry._OURS |= TEMPLATES
    stopping.listen()
    path, act = sys.argv[1:]
    try:
        with load_bench(path) as bench:
            bench.source.enable()
            print("lit", bench._watchdog and bench._watchdog._process.pid, flush=True)
            acts = {
                "wait": lambda: time.sleep(30),
                "end": lambda: None,
                "raise": lambda: 1 / 0,
                "fork": lambda: (forked(), time.sleep(30)),
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
        sys.exit(stopping.STATUS)


if __name__ == "__main__":
    main()
