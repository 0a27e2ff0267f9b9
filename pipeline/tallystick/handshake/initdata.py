"""Init-data: what a deployment hands the guest, measured into PCR 8 before anything is asked for.

The artifacts manifest in it names every encrypted file with the digests of both its forms and its key, so
that no file can be swapped without PCR 8 saying so.

Source: Trustee, kbs/docs/initdata.md (version 0.1.0); deps/verifier/src/tpm/mod.rs, ``verify_init_data``;
guest-components, attestation-agent/src/initdata.rs.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.handshake.fields import Fields
from tallystick.handshake.kbs import check_key

VERSION = "0.1.0"
PCR = 8  # deps/verifier/src/tpm/mod.rs, INITDATA_PCR
ARTIFACTS = "artifacts.json"
ARTIFACTS_SCHEMA = "tallystick/artifacts/v1"
AGENT = "aa.toml"  # guest-components, attestation-agent/config.example.toml

_MAX_BYTES = 1 << 20
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_ENTRY = ("name", "file", "sha256_ciphertext", "sha256_plaintext", "key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One encrypted file of the deployment."""

    name: str  # "weights"
    file: str  # on the data disk: "weights.tsenc"
    ciphertext: Digest
    plaintext: Digest
    key: str  # KBS resource path: "confidential-inference/weights/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class InitData:
    """What an init-data text says."""

    algorithm: str
    data: tuple[tuple[str, str], ...]  # name -> text, sorted

    def text(self, name: str) -> str:
        """Return the text called ``name``.

        Raises:
            Malformed: there is none.
        """
        for known, text in self.data:
            if known == name:
                return text
        raise Malformed("init-data", at=f"data.{name}", want="a text", got="nothing")


def digest(toml: bytes) -> bytes:
    """Return what is extended into PCR 8: SHA-256 of the text's exact bytes."""
    return hashlib.sha256(toml).digest()


def pcr8(toml: bytes) -> bytes:
    """Return PCR 8 after the guest measured ``toml``, and only that, into it.

    Source: Trustee, deps/verifier/src/tpm/mod.rs: ``sha256(0x00 * 32 || init-data digest)``.
    """
    return hashlib.sha256(bytes(32) + digest(toml)).digest()


def parse(toml: bytes) -> InitData:
    """Return what the init-data text ``toml`` says.

    Raises:
        Malformed: not UTF-8, not TOML, or not init-data.
        Unsupported: another version, or a hash that does not fit a PCR of the SHA-256 bank.
    """
    what = "init-data"
    if len(toml) > _MAX_BYTES:
        raise Malformed(what, at="size", want=f"at most {_MAX_BYTES} bytes", got=f"{len(toml)}")
    try:
        document = tomllib.loads(toml.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Malformed(what, at=f"byte {error.start}", want="UTF-8", got=error.reason) from None
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise Malformed(what, at="text", want="TOML", got=str(error)) from None
    fields = Fields(document, what)
    version, algorithm = fields.text("version"), fields.text("algorithm")
    if version != VERSION:
        raise Unsupported(what, at="version", want=VERSION, got=version)
    if algorithm not in ("sha256", "sha-256"):  # kbs-types takes both spellings
        raise Unsupported(what, at="algorithm", want="sha256", got=algorithm)
    data = fields.child("data")
    names = sorted(document["data"])
    return InitData(algorithm="sha256", data=tuple((name, data.text(name)) for name in names))


def make(data: dict[str, str]) -> bytes:
    """Return an init-data text that holds ``data``; the same data gives the same bytes.

    Raises:
        Malformed: a text that TOML's multi-line literal strings can not hold.
    """
    lines = [f'version = "{VERSION}"', 'algorithm = "sha256"', "", "[data]"]
    for name, text in sorted(data.items()):
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise Malformed("init-data", at="name", want="letters, digits, _ . -", got=repr(name))
        lines.append(f"\"{name}\" = '''\n{text}'''")
    made = ("\n".join(lines) + "\n").encode("utf-8")
    if dict(parse(made).data) != data:
        raise Malformed("init-data", at="text", want="text that TOML carries unchanged", got="one it changes")
    return made


def artifacts_text(artifacts: tuple[Artifact, ...]) -> str:
    """Return the artifacts manifest as the text that goes into init-data."""
    entries = [
        {
            "name": one.name,
            "file": one.file,
            "sha256_ciphertext": one.ciphertext.hex,
            "sha256_plaintext": one.plaintext.hex,
            "key": one.key,
        }
        for one in artifacts
    ]
    return jsondoc.dumps({"schema": ARTIFACTS_SCHEMA, "artifacts": entries}).decode("utf-8")


def parse_artifacts(text: str) -> tuple[Artifact, ...]:
    """Return the artifacts that the manifest ``text`` names.

    Raises:
        Malformed: not a manifest, an unknown field (it is our own format), or a name or file given twice.
        Unsupported: another schema.
    """
    what = "artifacts manifest"
    document = jsondoc.loads(text.encode("utf-8", "surrogatepass"), what, max_bytes=_MAX_BYTES)
    fields = Fields(document, what)
    if fields.text("schema") != ARTIFACTS_SCHEMA:
        raise Unsupported(what, at="schema", want=ARTIFACTS_SCHEMA, got=fields.text("schema"))
    _only(document, ("schema", "artifacts"), what)
    entries = fields.raw("artifacts")
    if not isinstance(entries, list) or not entries:
        raise Malformed(what, at="artifacts", want="at least one artifact", got="none")
    found = tuple(_artifact(entry, f"{what}: artifact {n}") for n, entry in enumerate(entries))
    for field in ("name", "file"):
        values = [getattr(one, field) for one in found]
        if len(set(values)) != len(values):
            raise Malformed(what, at=field, want="each once", got="one twice")
    return found


def broker_url(init: InitData) -> str:
    """Return the broker's address from the agent's own configuration, which is measured with the rest.

    Source: guest-components, attestation-agent/config.example.toml, ``token_configs.kbs.url``.

    Raises:
        Malformed: no such configuration.
    """
    try:
        document = tomllib.loads(init.text(AGENT))
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise Malformed(AGENT, at="text", want="TOML", got=str(error)) from None
    return Fields(document, AGENT).child("token_configs").child("kbs").text("url", max_characters=2048)


def agent_text(url: str) -> str:
    """Return the agent configuration that names the broker at ``url``."""
    if re.search(r"[\s\"'\\]", url):
        raise Malformed(AGENT, at="url", want="an URL without quotes or spaces", got=repr(url))
    return f"[token_configs]\n[token_configs.kbs]\nurl = '{url}'\n"


def _artifact(entry: Any, what: str) -> Artifact:
    fields = Fields(entry, what)
    _only(entry, _ENTRY, what)
    for name in ("name", "file"):
        if not _FILE.fullmatch(fields.text(name)):
            raise fields.bad(name, want="a plain file name", got=repr(fields.text(name)))
    return Artifact(
        name=fields.text("name"),
        file=fields.text("file"),
        ciphertext=_sha256(fields, "sha256_ciphertext"),
        plaintext=_sha256(fields, "sha256_plaintext"),
        key=check_key(fields.text("key")),
    )


def _sha256(fields: Fields, name: str) -> Digest:
    text = fields.text(name)
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise fields.bad(name, want="64 lower-case hex digits", got=repr(text))
    return Digest(Algorithm.SHA256, bytes.fromhex(text))


def _only(document: Any, names: tuple[str, ...], what: str) -> None:
    for name in document:
        if name not in names:
            raise Malformed(what, at=str(name), want="one of " + ", ".join(names), got="an unknown field")
