"""Key operations on a running broker, over a Unix socket in its own folder.

The log has one writer, so a command can not write beside a running broker; it asks it. Who may open the socket
is who may read the folder: its mode says so, and the kernel's word on the peer's user is asked as well.
One line of JSON in, one line of JSON out.

Source: unix(7), SO_PEERCRED.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from tallystick.broker.keyops import KeyOperation, operation_document, parse_operation, perform, shown
from tallystick.broker.service import Broker
from tallystick.broker.vault import MAX_KEY_BYTES
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, Refused, TallystickError, Unreachable
from tallystick.handshake.fields import Fields

_MOST_BYTES = 2 * MAX_KEY_BYTES
_SECONDS = 10.0
_PEER = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_KINDS = {kind.__name__: kind for kind in (Refused, NotGenuine, Unreachable)}


@asynccontextmanager
async def admin_socket(broker: Broker) -> AsyncIterator[None]:
    """Take key operations for ``broker`` for as long as the block lasts."""
    path = broker.config.home.admin_socket

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                answer = await _answer(broker, reader, writer)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, OSError, ValueError):
            pass  # a peer that says nothing, goes away, or says too much is told nothing
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    with suppress(FileNotFoundError):
        path.unlink()  # of a broker that was killed: this one holds the log's lock
    with _reachable(path) as address:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(address)
        path.chmod(0o600)
    server = await asyncio.start_unix_server(handle, sock=listening, limit=_MOST_BYTES)
    try:
        yield
    finally:
        server.close()
        with suppress(FileNotFoundError):
            path.unlink()


async def _answer(
    broker: Broker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> dict[str, Any]:
    """Return the answer to the one request of a connection."""
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, user, _ = _PEER.unpack(peer)
    if user not in (0, os.geteuid()):
        return _said(Refused("this socket is the broker's own user's", code="admin.peer"))
    try:
        operation = parse_operation(await reader.readline())
        done, record = await asyncio.to_thread(
            perform, operation, broker.vault, broker.ledger, now=broker.clock.now()
        )
    except TallystickError as error:
        return _said(error)
    return {"decision": done, **shown(record)}


def ask(path: Path, operation: KeyOperation) -> dict[str, Any] | None:
    """Return what the running broker answered to ``operation``; None when no broker listens at ``path``.

    Raises:
        Refused, NotGenuine, Unreachable, Malformed: what the broker raised, or its answer was none.
    """
    try:
        with _reachable(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(_SECONDS)
            peer.connect(address)
            peer.sendall(json.dumps(operation_document(operation)).encode() + b"\n")
            with peer.makefile("rb") as stream:
                line = stream.readline(_MOST_BYTES)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        raise Unreachable(f"broker: {path}: {error}", code="admin.unreachable") from None
    answer = jsondoc.loads(line, "broker's answer")
    if not isinstance(answer, dict):
        raise Malformed("broker's answer", at="document", want="an object", got=type(answer).__name__)
    if "error" in answer:
        said = Fields(answer["error"], "broker's answer")
        raise _KINDS.get(said.text("kind"), Refused)(said.text("message"), code=said.text("code"))
    return answer


def _said(error: TallystickError) -> dict[str, Any]:
    said = {"kind": type(error).__name__, "code": error.code, "message": error.message}
    return {"error": said}


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """Give an address for ``path`` that fits: a socket's address holds about a hundred bytes, a path more."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
