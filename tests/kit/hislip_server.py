"""A HiSLIP server over a device of `scpi_devices`: replies end with END and no line feed."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from scpi_devices import Device

_HEADER = struct.Struct("!2sBBIQ")
_INITIALIZE, _INITIALIZED, _DATA_END = 0, 1, 7
_SIZE, _SIZED, _ASYNC, _ASYNCED = 15, 16, 17, 18


@dataclass
class HislipServer:
    device: Device
    port: int = 0
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"TCPIP::127.0.0.1::hislip0,{self.port}::INSTR"

    def vanish(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _exactly(line: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        piece = line.recv(count - len(got))
        if not piece:
            raise EOFError
        got += piece
    return got


@contextmanager
def serve_hislip(device: Device) -> Iterator[HislipServer]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = HislipServer(device, listener.getsockname()[1])

    def converse(line: socket.socket) -> None:
        with line, contextlib.suppress(EOFError, OSError):
            while True:
                _, kind, _, parameter, size = _HEADER.unpack(_exactly(line, _HEADER.size))
                payload = _exactly(line, size)
                answer = {_INITIALIZE: (_INITIALIZED, 0x01000001), _ASYNC: (_ASYNCED, 0)}.get(kind)
                if answer:
                    line.sendall(_HEADER.pack(b"HS", answer[0], 0, answer[1], 0))
                elif kind == _SIZE:
                    line.sendall(_HEADER.pack(b"HS", _SIZED, 0, 0, 8) + payload)
                elif kind == _DATA_END:
                    reply = device.reply(payload.decode().strip())
                    if reply is not None:
                        said = reply.encode()
                        line.sendall(_HEADER.pack(b"HS", _DATA_END, 0, parameter, len(said)) + said)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                line = listener.accept()[0]
                server.connections.append(line)
                threading.Thread(target=converse, args=(line,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        server.vanish()
        thread.join(5)
