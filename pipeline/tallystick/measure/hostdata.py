"""What a host puts into the evidence for the guest's configuration: the fields that init-data or a policy decides.

Source: Trustee, kbs/docs/initdata.md (Confidential Containers: digest, and how it is fitted to each field);
deps/verifier/src, ``regularize_data`` (sizes of the fields) and az_snp_vtpm ``verify_init_data`` (PCR 8);
microsoft/hcsshim, pkg/securitypolicy (Azure Container Instances: HOST_DATA is the SHA-256 of the policy).
"""

from __future__ import annotations

import base64
import binascii
import re
import tomllib
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.handshake import initdata

MAX_BYTES = 4 << 20  # Azure takes policies of 120 KB; init-data of Confidential Containers stays below 1 MiB
HOST_DATA_BYTES, MRCONFIGID_BYTES, CONFIGID_BYTES, PERSONALIZATION_BYTES = 32, 48, 64, 64
_WHAT, _POLICY = "init-data", "CCE policy"
# kbs-types takes a hash by its IANA name and without the hyphen.
_ALGORITHMS = {
    f"sha{dash}{bits}": Algorithm.named(f"sha{bits}") for bits in (256, 384, 512) for dash in ("", "-")
}
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_PACKAGE = re.compile(r"^package[ \t]+([A-Za-z_][\w.]*)[ \t]*(?:#.*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFields:
    """The value of each platform's field for one init-data document."""

    digest: Digest  # of the document's exact bytes, by the hash that it names
    data: tuple[tuple[str, str], ...]  # name -> text, sorted

    @property
    def host_data(self) -> bytes:
        """HOST_DATA of an SNP report."""
        return fitted(self.digest.value, HOST_DATA_BYTES)

    @property
    def mr_config_id(self) -> bytes:
        """MRCONFIGID of a TDX quote."""
        return fitted(self.digest.value, MRCONFIGID_BYTES)

    @property
    def config_id(self) -> bytes:
        """CONFIGID of an SGX report."""
        return fitted(self.digest.value, CONFIGID_BYTES)

    @property
    def personalization_value(self) -> bytes:
        """The Realm Personalization Value of an Arm CCA token. Trustee compares it unpadded: SHA-512 alone fits."""
        return fitted(self.digest.value, PERSONALIZATION_BYTES)

    @property
    def pcr8(self) -> bytes | None:
        """PCR 8 of the SHA-256 bank (TPM, Azure's vTPM); None when the digest is not one that it takes."""
        if self.digest.algorithm is not Algorithm.SHA256:
            return None
        return Digest.of(bytes(32) + self.digest.value).value

    def document(self) -> dict[str, Any]:
        """Return the fields by name, in hex."""
        return {
            "algorithm": self.digest.algorithm.label,
            "digest": self.digest.hex,
            "host_data": self.host_data.hex(),
            "mr_config_id": self.mr_config_id.hex(),
            "config_id": self.config_id.hex(),
            "personalization_value": self.personalization_value.hex(),
            "pcr8": None if self.pcr8 is None else self.pcr8.hex(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CcePolicy:
    """A confidential computing enforcement policy of Azure Container Instances."""

    package: str  # of its Rego
    digest: Digest  # SHA-256 of its text

    @property
    def host_data(self) -> bytes:
        """HOST_DATA of the container group's SNP report."""
        return self.digest.value


def fitted(digest: bytes, size_bytes: int) -> bytes:
    """Return ``digest`` cut at its end, or filled up with zeros, to the field's size (initdata.md)."""
    return digest[:size_bytes].ljust(size_bytes, b"\0")


def init_data(data: bytes) -> HostFields:
    """Return the fields that the init-data document ``data`` (TOML, or JSON) decides.

    Raises:
        Malformed: not UTF-8, in neither encoding, or not init-data.
        Unsupported: another version, or a hash that is none of SHA-256, SHA-384 and SHA-512.
    """
    document = _decoded(data)
    for name, kind in (("version", str), ("algorithm", str), ("data", dict)):
        if not isinstance(document.get(name), kind):
            raise Malformed(_WHAT, at=name, want=f"a {kind.__name__}", got=type(document.get(name)).__name__)
    if document["version"] != initdata.VERSION:
        raise Unsupported(_WHAT, at="version", want=initdata.VERSION, got=document["version"])
    if document["algorithm"] not in _ALGORITHMS:
        want = "one of " + ", ".join(sorted(_ALGORITHMS))
        raise Unsupported(_WHAT, at="algorithm", want=want, got=document["algorithm"])
    for name, text in document["data"].items():
        if not isinstance(text, str):
            raise Malformed(_WHAT, at=f"data.{name}", want="a text", got=type(text).__name__)
    algorithm = _ALGORITHMS[document["algorithm"]]
    return HostFields(digest=Digest.of(data, algorithm), data=tuple(sorted(document["data"].items())))


def cce_policy(data: bytes) -> CcePolicy:
    """Return the policy in ``data``: Rego, or the base64 of it that deployment templates carry as ``ccePolicy``.

    No Rego is base64: it has a package clause, and with it a space.

    Raises:
        Malformed: neither, or Rego without a package clause.
    """
    if len(data) > MAX_BYTES:
        raise Malformed(_POLICY, at="size", want=f"at most {MAX_BYTES} bytes", got=f"{len(data)}")
    text = data.strip()
    if _BASE64.fullmatch(text):
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise Malformed(_POLICY, at="base64", want="whole groups of four", got=str(error)) from None
    try:
        found = _PACKAGE.search(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Malformed(_POLICY, at=f"byte {error.start}", want="UTF-8", got=error.reason) from None
    if found is None:
        raise Malformed(_POLICY, at="text", want="Rego with a package clause", got="none")
    return CcePolicy(package=found[1], digest=Digest.of(data))


def check(field: str, want: bytes, got: bytes) -> None:
    """Hold the field of some evidence against what the document decides.

    Raises:
        NotGenuine: they differ (``hostdata.mismatch``).
    """
    if want != got:
        finding = Finding("hostdata.mismatch", field, want.hex(), got.hex())
        raise NotGenuine(finding.message, findings=[finding])


def _decoded(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {MAX_BYTES} bytes", got=f"{len(data)}")
    if data.lstrip()[:1] == b"{":
        value = jsondoc.loads(data, _WHAT)
        if not isinstance(value, dict):
            raise Malformed(_WHAT, at="document", want="an object", got=type(value).__name__)
        return value
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Malformed(_WHAT, at=f"byte {error.start}", want="UTF-8", got=error.reason) from None
    except (ValueError, RecursionError) as error:
        raise Malformed(_WHAT, at="text", want="TOML or JSON", got=str(error)) from None
