"""The heartbeat of a Nitro enclave: without it the hypervisor's tools end the enclave after a while.

Source: aws/aws-nitro-enclaves-sdk-bootstrap, init/init.c, enclave_ready: connect to CID 3, port 9000, send one byte
0xB7, and read it back.
"""

from __future__ import annotations

import socket
import sys

CID, PORT = 3, 9000  # the parent instance, as an enclave sees it
BEAT = b"\xb7"
_SECONDS = 30.0


def beat(parent: socket.socket) -> bool:
    """Send the heartbeat to ``parent`` and say whether it came back."""
    parent.sendall(BEAT)
    return parent.recv(1) == BEAT


def main() -> int:
    """Send the heartbeat from this enclave; 0 when the parent answered it."""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as parent:
            parent.settimeout(_SECONDS)
            parent.connect((CID, PORT))
            answered = beat(parent)
    except OSError as error:
        sys.stdout.write(f"heartbeat: {error}\n")
        return 1
    if not answered:
        sys.stdout.write("heartbeat: another byte came back\n")
    return 0 if answered else 1


if __name__ == "__main__":
    sys.exit(main())
