"""TPM 2.0 structures signed by throwaway keys, and a real software TPM (swtpm) to make the same."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tallystick.attester.tpm import Tpm, open_tpm

RSASSA, RSAPSS, ECDSA, NULL = 0x14, 0x16, 0x18, 0x10
SHA1, SHA256, SHA384 = 0x4, 0xB, 0xC
AK_ATTRIBUTES = 0x00050072
HASHES = {SHA1: hashes.SHA1, SHA256: hashes.SHA256, SHA384: hashes.SHA384}
NAMES = {SHA1: "sha1", SHA256: "sha256", SHA384: "sha384"}
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def sized(data: bytes) -> bytes:
    """Return a TPM2B."""
    return struct.pack(">H", len(data)) + data


def public(
    key: Private,
    *,
    scheme: int = NULL,
    hashed: int = SHA256,
    attributes: int = AK_ATTRIBUTES,
    policy: bytes = b"",
) -> bytes:
    """Return the TPMT_PUBLIC of ``key``."""
    details = struct.pack(">H", scheme) + (b"" if scheme == NULL else struct.pack(">H", hashed))
    head = struct.pack(">HHI", 1 if isinstance(key, rsa.RSAPrivateKey) else 0x23, SHA256, attributes) + sized(
        policy
    )
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        exponent = 0 if numbers.e == 65537 else numbers.e
        modulus = numbers.n.to_bytes(key.key_size // 8, "big")
        return (
            head
            + struct.pack(">H", NULL)
            + details
            + struct.pack(">HI", key.key_size, exponent)
            + sized(modulus)
        )
    point, size = key.public_key().public_numbers(), (key.key_size + 7) // 8
    curve = {256: 3, 384: 4, 521: 5}[key.key_size]
    where = sized(point.x.to_bytes(size, "big")) + sized(point.y.to_bytes(size, "big"))
    return head + struct.pack(">H", NULL) + details + struct.pack(">HH", curve, NULL) + where


def attest(
    pcrs: dict[int, bytes],
    extra_data: bytes,
    *,
    bank: int = SHA256,
    hashed: int = SHA256,
    magic: int = 0xFF544347,
    kind: int = 0x8018,
    digest: bytes | None = None,
    safe: int = 1,
    signer: bytes = b"\0\x0b" + bytes(32),
) -> bytes:
    """Return the TPMS_ATTEST of a quote over ``pcrs``."""
    bitmap = sum(1 << register for register in pcrs).to_bytes(3, "little")
    value = hashlib.new(NAMES[hashed], b"".join(pcrs[register] for register in sorted(pcrs))).digest()
    out = struct.pack(">IH", magic, kind) + sized(signer) + sized(extra_data)
    out += struct.pack(">QIIBQ", 1234, 5, 6, safe, 0x20191023_00163636)
    return out + struct.pack(">IHB", 1, bank, 3) + bitmap + sized(value if digest is None else digest)


def sign(key: Private, message: bytes, scheme: int, hashed: int = SHA256) -> bytes:
    """Return the TPMT_SIGNATURE of ``message``."""
    algorithm = HASHES[hashed]()
    if isinstance(key, rsa.RSAPrivateKey):
        if scheme == RSAPSS:
            pad: padding.AsymmetricPadding = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
        else:
            pad = padding.PKCS1v15()
        return struct.pack(">HH", scheme, hashed) + sized(key.sign(message, pad, algorithm))
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(algorithm)))
    size = (key.key_size + 7) // 8
    return (
        struct.pack(">HH", scheme, hashed) + sized(r.to_bytes(size, "big")) + sized(s.to_bytes(size, "big"))
    )


def new_rsa(bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return a new key."""
    return rsa.generate_private_key(65537, bits)


@contextmanager
def software_tpm(folder: Path) -> Iterator[Tpm]:
    """Give a running swtpm with a SHA-256 bank, started and ready; it ends with the block."""
    if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
        pytest.skip("swtpm is not installed (Debian: swtpm, swtpm-tools)")
    folder.mkdir(parents=True, exist_ok=True)
    setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(folder), "--overwrite", "--pcr-banks", "sha256"]
    subprocess.run(setup, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with tempfile.TemporaryDirectory(prefix="tally-tpm-") as sockets:  # the name of a socket must be short
        path = Path(sockets) / "server"
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}"]
        command += ["--server", f"type=unixio,path={path}", "--flags", "startup-clear,not-need-init"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await_listener(path)
            tpm = open_tpm(str(path))
            try:
                yield tpm
            finally:
                tpm.close()
        finally:
            process.terminate()
            process.wait(10)


def await_listener(path: Path, seconds: float = 20) -> None:
    """Wait until somebody listens on the unix socket at ``path``: it is there a moment before that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[-1] == str(path) and fields[3] == "00010000":  # __SO_ACCEPTCON
                return
        time.sleep(0.01)
    pytest.fail(f"nobody listens on {path}")
