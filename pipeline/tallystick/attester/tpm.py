"""A TPM 2.0, spoken to in raw commands: through the kernel's resource manager or an emulator's socket."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from tallystick.core.errors import Malformed, TallystickError, Unreachable
from tallystick.handshake import tpmwire as wire
from tallystick.handshake.tpmwire import Reader, handle, sized

DEVICE = "/dev/tpmrm0"

_MAX_RESPONSE_BYTES = 4096  # Linux, drivers/char/tpm/tpm.h, TPM_BUFSIZE
_NV_CHUNK_BYTES = 512  # below every TPM's NV_BUFFER_MAX
_RETRIES = 200
_RETRY_SECONDS = 0.005
_TIMEOUT_SECONDS = 30.0
_ALL = frozenset(range(wire.PCR_COUNT))
_BUSY = (wire.RC_RETRY, wire.RC_YIELDED, wire.RC_TESTING)


class TpmRefused(TallystickError):
    """The TPM answered a command with an error."""

    exit = Unreachable.exit
    default_code = "tpm.refused"

    def __init__(self, what: str, rc: int) -> None:
        self.rc = rc
        super().__init__(f"TPM: {what}: response code {rc:#x}")


class Transport(Protocol):
    """A way to a TPM: one command in, one response out."""

    def exchange(self, command: bytes) -> bytes:
        """Return the response to ``command``."""

    def close(self) -> None:
        """Let go of the TPM."""


class DeviceTransport:
    """A TPM character device. The kernel answers one read for each write."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def exchange(self, command: bytes) -> bytes:
        """Return the response to ``command``."""
        os.write(self._file, command)
        return os.read(self._file, _MAX_RESPONSE_BYTES)

    def close(self) -> None:
        """Close the device; the resource manager flushes what we left loaded."""
        os.close(self._file)


class SocketTransport:
    """An emulator's unix socket (``swtpm socket --server type=unixio``)."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT_SECONDS)
        self._socket.connect(path)

    def exchange(self, command: bytes) -> bytes:
        """Return the response to ``command``."""
        self._socket.sendall(command)
        head = self._take(10)
        size = min(max(int.from_bytes(head[2:6], "big"), 10), _MAX_RESPONSE_BYTES)
        return head + self._take(size - 10)

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionError("the TPM closed the connection")
            data += part
        return data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key that is loaded in the TPM."""

    handle: int
    area: bytes  # its TPMT_PUBLIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What the attestation key signed, and the registers that it is about."""

    message: bytes  # TPMS_ATTEST
    signature: bytes  # TPMT_SIGNATURE
    pcrs: tuple[bytes, ...]


class Tpm:
    """The commands that attesting needs. Every failed command names itself."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def read_nv(self, index: int) -> bytes:
        """Return the contents of the NV index, read with its own empty password."""
        reader = self._run("NV_ReadPublic", wire.command(wire.CC_NV_READ_PUBLIC, handle(index)))
        public = Reader(reader.sized("nvPublic"))
        public.take("nvIndex, nameAlg, attributes", 10)
        public.sized("authPolicy")
        size, data = public.number("dataSize", 2), b""
        while len(data) < size:
            place = struct.pack(">HH", min(_NV_CHUNK_BYTES, size - len(data)), len(data))
            command = wire.authorized(wire.CC_NV_READ, handle(index) * 2, (wire.password(),), place)
            data += _parameters(self._run("NV_Read", command)).sized("data")
        return data

    def endorsement_key(self) -> tuple[Key, bool]:
        """Return the endorsement key, and whether it is a transient copy that must be flushed.

        It is the persistent one when the manufacturer left it there, else made again from its template: the
        same seed and template give the same key.
        """
        try:
            public = self._run("ReadPublic", wire.command(wire.CC_READ_PUBLIC, handle(wire.EK_HANDLE)))
            return Key(handle=wire.EK_HANDLE, area=public.sized("outPublic")), False
        except TpmRefused:
            parameters = sized(sized(b"") * 2) + sized(wire.ek_template()) + sized(b"") + handle(0)
            command = wire.authorized(
                wire.CC_CREATE_PRIMARY, handle(wire.RH_ENDORSEMENT), (wire.password(),), parameters
            )
            answer = self._run("CreatePrimary(EK)", command)
            loaded = answer.number("objectHandle", 4)
            return Key(handle=loaded, area=_parameters(answer).sized("outPublic")), True

    @contextmanager
    def attestation_key(self, parent: Key) -> Iterator[Key]:
        """Give a new attestation key, a child of the endorsement key, loaded until the block ends."""
        empty_sensitive = sized(sized(b"") * 2)
        parameters = empty_sensitive + sized(wire.ak_template()) + sized(b"") + handle(0)
        with self._endorsement_policy() as session:
            command = wire.authorized(
                wire.CC_CREATE, handle(parent.handle), (wire.policy(session),), parameters
            )
            made = _parameters(self._run("Create(AK)", command))
        private, area = made.sized("outPrivate"), made.sized("outPublic")
        with self._endorsement_policy() as session:
            command = wire.authorized(
                wire.CC_LOAD, handle(parent.handle), (wire.policy(session),), sized(private) + sized(area)
            )
            loaded = self._run("Load(AK)", command).number("objectHandle", 4)
        try:
            yield Key(handle=loaded, area=area)
        finally:
            self.flush(loaded)

    def activate(self, key: Key, parent: Key, credential_blob: bytes, encrypted_secret: bytes) -> bytes:
        """Return the secret that was sealed to ``parent`` for the Name of ``key``.

        Args:
            credential_blob: TPM2B_ID_OBJECT.
            encrypted_secret: TPM2B_ENCRYPTED_SECRET.
        """
        with self._endorsement_policy() as session:
            command = wire.authorized(
                wire.CC_ACTIVATE_CREDENTIAL,
                handle(key.handle) + handle(parent.handle),
                (wire.password(), wire.policy(session)),
                credential_blob + encrypted_secret,
            )
            return _parameters(self._run("ActivateCredential", command)).sized("certInfo")

    def quote(self, key: Key, extra_data: bytes) -> Quote:
        """Return a quote over all 24 registers, and the values that it is about.

        The registers are read again when one was extended between the quote and the reading.

        Raises:
            Unreachable: they keep changing (``tpm.pcrs-moving``).
        """
        parameters = sized(extra_data) + struct.pack(">H", wire.ALG_NULL) + wire.pcr_selection(_ALL)
        command = wire.authorized(wire.CC_QUOTE, handle(key.handle), (wire.password(),), parameters)
        for _ in range(3):
            answer = _parameters(self._run("Quote", command))
            message, signature = answer.sized("quoted"), answer.rest()
            pcrs = self.read_pcrs()
            if message.endswith(sized(hashlib.sha256(b"".join(pcrs)).digest())):
                return Quote(message=message, signature=signature, pcrs=pcrs)
        raise Unreachable("TPM: the registers changed during every quote", code="tpm.pcrs-moving")

    def read_pcrs(self) -> tuple[bytes, ...]:
        """Return the 24 registers of the SHA-256 bank. A TPM gives at most eight at a time.

        Raises:
            Malformed: the TPM has no SHA-256 bank.
        """
        found: dict[int, bytes] = {}
        while left := _ALL - found.keys():
            command = wire.command(wire.CC_PCR_READ, wire.pcr_selection(left))
            answer = self._run("PCR_Read", command)
            answer.number("pcrUpdateCounter", 4)
            registers = _selected(answer)
            values = [answer.sized("digest") for _ in range(answer.number("digests", 4))]
            if not values or len(registers) != len(values):
                raise Malformed("TPM", at="PCR_Read", want="a SHA-256 bank", got="no values")
            found.update(zip(registers, values, strict=True))
        return tuple(found[register] for register in range(wire.PCR_COUNT))

    def extend(self, register: int, digest: bytes) -> None:
        """Extend ``register`` of the SHA-256 bank by ``digest``."""
        parameters = struct.pack(">IH", 1, wire.ALG_SHA256) + digest
        command = wire.authorized(wire.CC_PCR_EXTEND, handle(register), (wire.password(),), parameters)
        self._run(f"PCR_Extend({register})", command)

    def startup(self) -> None:
        """Start an emulator that nobody has started yet: TPM2_Startup(CLEAR)."""
        command = wire.command(wire.CC_STARTUP, struct.pack(">H", 0))
        self._run("Startup", command, also=wire.RC_INITIALIZE)

    def shutdown(self) -> None:
        """Prepare an emulator for the loss of its power: TPM2_Shutdown(CLEAR). A kernel does this for its own."""
        self._run("Shutdown", wire.command(wire.CC_SHUTDOWN, struct.pack(">H", 0)))

    def flush(self, loaded: int) -> None:
        """Take a transient key or a session out of the TPM."""
        self._run("FlushContext", wire.command(wire.CC_FLUSH_CONTEXT, handle(loaded)))

    def close(self) -> None:
        """Let go of the TPM."""
        self._transport.close()

    @contextmanager
    def _endorsement_policy(self) -> Iterator[int]:
        """Give a policy session that satisfies the endorsement key's policy, for one use.

        The use ends it (continueSession is clear). When the use fails the TPM keeps it, so it is flushed
        here: a TPM holds only a few sessions.
        """
        start = struct.pack(">II", wire.RH_NULL, wire.RH_NULL) + sized(os.urandom(16)) + sized(b"")
        start += struct.pack(">BHH", wire.SE_POLICY, wire.ALG_NULL, wire.ALG_SHA256)
        answer = self._run("StartAuthSession", wire.command(wire.CC_START_AUTH_SESSION, start))
        session = answer.number("sessionHandle", 4)
        try:
            command = wire.authorized(
                wire.CC_POLICY_SECRET,
                handle(wire.RH_ENDORSEMENT) + handle(session),
                (wire.password(),),
                sized(b"") * 3 + struct.pack(">i", 0),
            )
            self._run("PolicySecret(endorsement)", command)
            yield session
        except BaseException:
            self._flush_quietly(session)
            raise

    def _flush_quietly(self, session: int) -> None:
        try:
            self.flush(session)
        except TpmRefused:
            return  # the TPM had ended it already

    def _run(self, what: str, command: bytes, *, also: int = wire.RC_SUCCESS) -> Reader:
        """Return the response's body, after waiting out a TPM that is busy.

        A raw client sees TPM_RC_RETRY itself; only the kernel's device hides it.
        """
        for _ in range(_RETRIES):
            try:
                response = self._transport.exchange(command)
            except OSError as error:
                raise Unreachable(f"TPM: {what}: {error.strerror or error}", code="tpm.unreachable") from None
            reader = Reader(response)
            reader.take("tag and size", 6)
            rc = reader.number("responseCode", 4)
            if rc in (wire.RC_SUCCESS, also):
                return reader
            if rc not in _BUSY:
                raise TpmRefused(what, rc)
            time.sleep(_RETRY_SECONDS)
        raise Unreachable(f"TPM: {what}: still busy after {_RETRIES} tries", code="tpm.busy")


def open_tpm(path: str = DEVICE) -> Tpm:
    """Return the TPM at ``path``: a character device, or an emulator's unix socket.

    An emulator is started here, unless it has been; a device was started by the firmware.

    Raises:
        Unreachable: there is none, or it may not be opened.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return Tpm(DeviceTransport(path))
        emulated = Tpm(SocketTransport(path))
    except OSError as error:
        raise Unreachable(f"TPM: {path}: {error.strerror or error}", code="tpm.unreachable") from None
    try:
        emulated.startup()
    except TallystickError:
        emulated.close()
        raise
    return emulated


def _parameters(answer: Reader) -> Reader:
    """Return the parameters of a response to an authorized command, without the authorizations after them."""
    return Reader(answer.take("parameters", answer.number("parameterSize", 4)))


def _selected(answer: Reader) -> list[int]:
    """Return the registers in a TPML_PCR_SELECTION of one bank."""
    registers: list[int] = []
    for _ in range(answer.number("selections", 4)):
        answer.number("hash", 2)
        bitmap = int.from_bytes(answer.sized_byte("pcrSelect"), "little")
        registers += [register for register in range(wire.PCR_COUNT) if bitmap >> register & 1]
    return registers
