"""Both ends of the socket of ``tally resident``: ask for a command to be run, and run it in a fork.

The client half, :func:`ask`, is called by cli/quick.py where ``TALLY_RESIDENT`` names the socket. Each request runs in
a process of its own with the caller's files, folder and environment, so nothing of one is left for the next. Both ends
ask the kernel whether the other is the same user's; whatever is not as it should be, the caller does the work itself.

Source: unix(7), SO_PEERCRED and SCM_RIGHTS; docs/decisions/0126-resident-verifier.md.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

COMMAND = "verify"  # the one that is run here: it reads no private key
NOT_DONE = 255  # the answer of a resident that will not: another version, another command
_LENGTH = struct.Struct("!I")
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_MAX_BYTES = 4 << 20
_STANDARD = (0, 1, 2)  # stdin, stdout, stderr
_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def ask(path: str, arguments: Sequence[str]) -> int | None:
    """Return the exit code of ``tally`` with ``arguments``, run by the resident at ``path``; None when it did not."""
    request = {
        "package": _PACKAGE,
        "version": _version(),
        "arguments": list(arguments),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
    }
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(path)
            if not _same_user(connection):
                return None
            data = json.dumps(request).encode()
            socket.send_fds(connection, [_LENGTH.pack(len(data))], _STANDARD)
            connection.sendall(data)
            said = connection.recv(1)
    except (OSError, ValueError):
        return None
    return said[0] if said and said[0] != NOT_DONE else None


def serve(path: str, run: Callable[[list[str]], int], ready: Callable[[], object]) -> NoReturn:
    """Answer at the socket ``path`` until the process is told to end.

    Args:
        run: runs a command line and returns its exit code.
        ready: called when requests are answered.

    Raises:
        OSError: ``path`` can not be listened at.
    """
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are nobody's to wait for
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        _forget(path)
        before = os.umask(0o177)
        try:
            listening.bind(path)
        finally:
            os.umask(before)
        try:
            listening.listen()
            ready()
            while True:
                connection, _ = listening.accept()
                with connection:
                    if os.fork() == 0:
                        listening.close()
                        _answer(connection, run)
        finally:
            os.unlink(path)


def _forget(path: str) -> None:
    """Remove the socket that a killed resident left at ``path``; one that answers stays."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:  # also of a plain file, which is not ours to remove
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        except OSError:
            return


def _answer(connection: socket.socket, run: Callable[[list[str]], int]) -> NoReturn:
    """Do what is asked, in the child."""
    import signal

    code = NOT_DONE
    try:
        for one in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)
        arguments = _taken_over(connection)
        if arguments is not None:
            code = run(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException:  # the caller then does it again, and says what is wrong
        code = NOT_DONE
    try:
        connection.send(bytes([code]))
    finally:
        os._exit(0)


def _taken_over(connection: socket.socket) -> list[str] | None:
    """Take the caller's files, folder and environment for one's own; None when it is not to be served."""
    if not _same_user(connection):
        return None
    header, files, _, _ = socket.recv_fds(connection, _LENGTH.size, len(_STANDARD))
    (size,) = _LENGTH.unpack(header)
    if len(files) != len(_STANDARD) or size > _MAX_BYTES:
        return None
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    request = json.loads(data)
    arguments = request["arguments"]
    if (request["package"], request["version"]) != (_PACKAGE, _version()) or arguments[:1] != [COMMAND]:
        return None
    for given, own in zip(files, _STANDARD, strict=True):
        os.dup2(given, own)
        os.close(given)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return list(arguments)


def _same_user(connection: socket.socket) -> bool:
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return bool(_PEER.unpack(data)[1] == os.geteuid())


def _version() -> str:
    from tallystick import __version__

    return __version__
