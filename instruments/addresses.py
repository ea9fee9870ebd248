"""`canonical`: one spelling for every name of a device, so that no device is held under two names.

A serial port has a path and links to it. A network instrument has a host name and an address. VISA
omits zeros. Not here: which process holds a device (`base`, `device_lock`).
"""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
from functools import lru_cache
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

_LOOKUP_TIMEOUT_S = 1.0  # to resolve a host name; on failure the name itself is used
_COM = re.compile(r"(?:\\\\[.?]\\)?com(\d+)")
_SCREEN = re.compile(r"(?:unix|localhost)?(:\d+)(?:\.\d+)?")


def canonical(address: str) -> str:
    """Return the canonical spelling of an address; an unknown kind is only put in lower case.

    Parameters
    ----------
    address : a VISA address, a serial port or a URL of pyserial; other text is kept
    """
    address = address.strip()
    if not address:
        return ""
    if "://" in address:
        return _of_url(address)
    if "::" in address or address.upper().startswith("ASRL"):
        return _of_visa(address)
    return _of_port(address)


def is_lasting(address: str) -> bool:
    """Return whether an address is permanent; a local TCP port or a pseudo-terminal is not."""
    key = canonical(address)
    return key not in ("", "-") and "127.0.0.1" not in key and not key.startswith("tty:pts")


def x_display(name: str) -> str:
    """Return the canonical name of an X display; "" means the display of the environment.

    Windows and macOS show windows without one, even where an X server sets a variable.
    """
    if sys.platform in ("win32", "darwin"):
        return ""
    name = name or os.environ.get("DISPLAY", "")
    found = _SCREEN.fullmatch(name.strip().casefold())
    return found[1] if found else name


def _of_visa(address: str) -> str:
    parts = address.split("::")
    bus = re.match(r"([A-Za-z]+)(.*)", parts[0], re.DOTALL)
    if bus is None:
        return address.casefold()
    kind, board, rest = bus[1].casefold(), bus[2], [part.strip() for part in parts[1:]]
    if rest and rest[-1].casefold() in ("instr", "socket", "raw", "intfc"):
        last = rest.pop().casefold()
    else:
        last = "instr"
    if parts[0].upper().startswith("ASRL"):
        port = parts[0][4:]
        return _of_port(f"com{port}" if port.isdigit() and os.name == "nt" else port)
    if kind == "tcpip" and rest:
        return _of_network(rest, last)
    numbers = [_number(part) for part in (board or "0", *rest)]
    if kind == "usb" and len(numbers) > 3:
        numbers[3] = rest[2].casefold()  # a serial number, even where it looks like an integer
    if kind in ("gpib", "usb"):
        wanted = 3 if kind == "gpib" else 5
        numbers += ["0"] * (wanted - len(numbers))
    return "::".join([kind, *numbers])


def _of_network(rest: list[str], last: str) -> str:
    host, *more = rest
    if last == "socket":
        return f"tcp:{_host(host)}:{_number(more[0] if more else '0')}"
    name = (more[0] if more else "inst0").casefold().removesuffix(",4880")
    # VXI-11 and HiSLIP both reach the first instrument of a host
    return f"lan:{_host(host)}:{'0' if name in ('inst0', 'hislip0') else name}"


def _of_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme in ("socket", "rfc2217"):
        split = urlsplit(url)
        try:
            return f"tcp:{_host(split.hostname or '')}:{split.port or 0}"
        except ValueError:  # a port that is not a number
            return url.casefold()
    if scheme in ("spy", "alt", "cp2110"):
        return _of_port(rest.partition("?")[0])
    return url.casefold()


def _of_port(port: str) -> str:
    """Return the device number of a port, independent of the link or name used."""
    found = _COM.fullmatch(port.casefold())
    if found:
        return f"com{found[1]}"
    if not port.startswith("/"):
        return port.casefold()
    real = os.path.realpath(port)
    try:
        state = Path(real).stat()
    except OSError:  # the device is not plugged in
        return real
    if not stat.S_ISCHR(state.st_mode):
        return real
    number = f"{os.major(state.st_rdev)}:{os.minor(state.st_rdev)}"
    return f"tty:{'pts:' if real.startswith('/dev/pts/') else ''}{number}"


def _number(text: str) -> str:
    """Return an integer in decimal, or the text where it is not an integer."""
    try:
        return str(int(text, 0))
    except ValueError:
        return text.lstrip("0") if text.isdigit() and int(text) else text.casefold()


def _host(name: str) -> str:
    found = _resolved(name.strip("[]").rstrip(".").casefold())
    return "127.0.0.1" if found == "::1" or found.startswith("127.") else found


@lru_cache(maxsize=256)
def _resolved(name: str) -> str:
    """Return the first address of a host; the name itself where the lookup fails or times out."""
    found: list[str] = []

    def ask() -> None:
        try:
            addresses = {(info[0], str(info[4][0])) for info in socket.getaddrinfo(name, None)}
        except (OSError, UnicodeError):
            return
        found.extend(address for _, address in sorted(addresses))

    thread = Thread(target=ask, daemon=True)  # getaddrinfo has no time-out
    thread.start()
    thread.join(_LOOKUP_TIMEOUT_S)
    return found[0] if found else name
