"""The heartbeat of an enclave, with a socket pair where the parent instance would be."""

from __future__ import annotations

import socket

import pytest

from tallystick.attester import heartbeat


@pytest.mark.parametrize(("answer", "good"), [(b"\xb7", True), (b"\xb8", False), (b"", False)])
def test_the_byte_has_to_come_back(answer, good):
    ours, parent = socket.socketpair()
    with ours, parent:
        parent.sendall(answer)
        if not answer:
            parent.shutdown(socket.SHUT_WR)
        assert heartbeat.beat(ours) is good
        assert parent.recv(8) == b"\xb7"


def test_a_machine_that_is_no_enclave_says_so_and_goes_on(capsys, monkeypatch):
    class Nobody:
        def __enter__(self):
            return self

        def __exit__(self, *about):
            return None

        def settimeout(self, seconds):
            assert seconds > 0

        def connect(self, address):
            assert address == (3, 9000)
            raise OSError("no such device")

    monkeypatch.setattr(socket, "AF_VSOCK", 40, raising=False)
    monkeypatch.setattr(socket, "socket", lambda family, kind: Nobody())
    assert heartbeat.main() == 1
    assert capsys.readouterr().out == "heartbeat: no such device\n"
