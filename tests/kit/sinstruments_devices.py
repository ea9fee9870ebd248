"""The emulated instruments, served by sinstruments in a separate process:

python sinstruments_devices.py RedPitaya       prints the port
"""

import logging
import sys

import scpi_devices
from sinstruments.simulator import BaseDevice, Server


class Emulated(BaseDevice):
    """A device of `scpi_devices` that sinstruments serves."""

    def __init__(self, name, **options):
        super().__init__(name, **options)
        self.device = getattr(scpi_devices, name)()

    def handle_message(self, line):
        reply = self.device.reply(line.decode().strip())
        return None if reply is None else reply.encode() + b"\n"


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    sys.modules["emulated"] = sys.modules["__main__"]
    transport = {"type": "tcp", "url": ["127.0.0.1", 0]}
    name = sys.argv[1]
    device = {"name": name, "class": "Emulated", "package": "emulated", "transports": [transport]}
    server = Server(devices=[device])
    (tcp,) = server.devices[name].transports
    tcp.start()
    print(tcp.server_port, flush=True)
    tcp.serve_forever()
