"""Init-data: what a deployment hands the guest, measured into PCR 8 before anything is asked for.

The manifest in it (:mod:`tallystick.handshake.manifest`) names every encrypted file with the digests of both its
forms and its key, so that no file can be swapped without PCR 8 saying so.

Source: Trustee, kbs/docs/initdata.md (version 0.1.0); deps/verifier/src/tpm/mod.rs, ``verify_init_data``;
guest-components, attestation-agent/src/initdata.rs.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache

from tallystick.core.errors import Malformed, Unsupported
from tallystick.handshake.fields import Fields

VERSION = "0.1.0"
PCR = 8  # deps/verifier/src/tpm/mod.rs, INITDATA_PCR
ARTIFACTS = "artifacts.json"
AGENT = "aa.toml"  # guest-components, attestation-agent/config.example.toml

_MAX_BYTES = 1 << 20


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


@lru_cache(maxsize=16)  # a fleet sends the same text, and TOML is slow
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
