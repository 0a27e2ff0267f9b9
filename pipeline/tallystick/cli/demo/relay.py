"""Join this process's standard input and output to a port of this machine: ``python3 -I -S relay.py PORT``.

QEMU runs one for each connection that the guest opens to the one address it can reach. Standard library only,
and few imports: it starts anew for every request.
"""

import os
import selectors
import socket
import sys

_BLOCK_BYTES = 1 << 16


def relay(port: int) -> None:
    """Carry bytes both ways until the port's side has closed."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as server,
        selectors.DefaultSelector() as wait,
    ):
        server.settimeout(None)
        wait.register(0, selectors.EVENT_READ)
        wait.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in wait.select():
                if key.fileobj is server:
                    data = server.recv(_BLOCK_BYTES)
                    if not data:
                        return
                    _write_all(data)
                elif data := os.read(0, _BLOCK_BYTES):
                    server.sendall(data)
                else:
                    wait.unregister(0)
                    server.shutdown(socket.SHUT_WR)


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    try:
        relay(int(sys.argv[1]))
    except OSError:
        sys.exit(1)
