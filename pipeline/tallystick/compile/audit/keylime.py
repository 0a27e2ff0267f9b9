"""Keylime's policies: TPM policies, runtime policies, measured-boot reference states, and the verifier's configuration.

Source: keylime 7.14, keylime/mba/elchecking (policies.py, example.py, elchecker.py), keylime/ima/ima.py,
keylime/tpm/tpm_main.py (check_pcrs).
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

from tallystick.compile.audit.records import Audited, PermissivePath, ReferenceValues
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, TallystickError

_OPTION = "measured_boot_policy_name"
_RUNTIME = {"digests", "excludes", "ima", "meta"}
_REFSTATE = {"scrtm_and_bios", "kernels"}
# Registers that together say what was booted: firmware, boot path, Secure Boot, command line and initrd, kernel image.
_NEEDED = (0, 4, 7, 8, 9, 11)
_RESETTABLE = (16, 23)
_MOST = 4_096
_PROBES = ("/usr/bin/backdoor", "/tmp/x", "/lib/modules/evil.ko")  # noqa: S108 (paths that an IMA list could have)


class Audit:
    """Keylime's policy files, by what is in them."""

    name = "keylime-policy"

    def recognises(self, data: bytes, file_name: str) -> bool:
        """Say whether this is any of Keylime's files. An empty object is one where the file's name says so."""
        if b"[verifier]" in data and _OPTION.encode() in data:
            return True
        try:
            found = jsondoc.loads(data, "Keylime policy")
        except TallystickError:
            return False
        if not isinstance(found, dict):
            return False
        if not found:
            return re.search(r"refstate|measured|mb[_-]?policy", file_name) is not None
        return set(found) >= _RUNTIME or bool(_REFSTATE & set(found)) or _is_tpm(found)

    def audit(self, data: bytes, reference: ReferenceValues | None) -> Audited:
        """Return every permissive path that was found."""
        if b"[verifier]" in data:
            return self._audited(_configuration(data))
        found = jsondoc.loads(data, "Keylime policy")
        if not isinstance(found, dict):
            raise Malformed("Keylime policy", at="document", want="an object", got=type(found).__name__)
        if found and _is_tpm(found):
            return self._tpm(found, reference)
        if set(found) >= _RUNTIME:
            _typed(found, {"digests": dict, "excludes": list, "ima": dict})
            return self._audited(_runtime(found))
        _typed(found, {"kernels": list, "scrtm_and_bios": list})
        return self._audited(_refstate(found))

    def _tpm(self, found: Mapping[str, Any], reference: ReferenceValues | None) -> Audited:
        lists = {int(n): _listed(v, n) for n, v in found.items() if n != "mask"}
        columns = sorted(lists)
        accepted = list(islice(product(*(lists[n] for n in columns)), _MOST))
        rows = reference.tuples if reference else ()
        ours = {tuple(row.get(f"pcr{n:02}") for n in columns) for row in rows}
        paths = [*_registers(lists), *_mixed(columns, lists, accepted, ours if reference else None)]
        return self._audited(
            iter(paths),
            released=len(ours) if reference else None,
            accepted=len(set(accepted)) if reference else None,
        )

    def _audited(
        self, paths: Iterator[PermissivePath], released: int | None = None, accepted: int | None = None
    ) -> Audited:
        return Audited(
            language=self.name,
            paths=tuple(paths),
            released=released,
            accepted=accepted,
            limits=(
                "which endorsement keys the registrar takes: require_ek_cert and tpm_cert_store",
                "which agents have this policy, and what their payload is",
            ),
        )


def _is_tpm(found: Mapping[str, Any]) -> bool:
    return all(name == "mask" or (name.isdigit() and int(name) < 24) for name in found)


def _listed(value: Any, register: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise Malformed("tpm_policy", at=register, want="hex digests", got=repr(value)[:80])
    return values


def _typed(found: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    for name, kind in kinds.items():
        if name in found and not isinstance(found[name], kind):
            raise Malformed(
                "Keylime policy", at=name, want=f"a {kind.__name__}", got=type(found[name]).__name__
            )


def _configuration(data: bytes) -> Iterator[PermissivePath]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(data.decode("utf-8"))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise Malformed("verifier.conf", at="file", want="an INI file", got=str(error)[:80]) from None
    if parser.get("verifier", _OPTION, fallback="accept-all").strip() == "accept-all":
        yield PermissivePath(
            code="keylime.accept-all",
            where=f"[verifier] {_OPTION}",
            what="accept-all, which is the default: no event log is ever refused",
            fix="name a policy that compares, such as example, or pin the registers in tpm_policy",
            evidence={"event_log": [{"EventType": "EV_EFI_BOOT_SERVICES_APPLICATION", "Digest": "ff" * 32}]},
        )


def _registers(lists: Mapping[int, list[str]]) -> Iterator[PermissivePath]:
    missing = [n for n in _NEEDED if n not in lists]
    if missing:
        names = ", ".join(map(str, missing))
        yield PermissivePath(
            code="keylime.tpm.registers",
            where="tpm_policy",
            what=f"says nothing of PCR {names}: whatever is measured there is accepted",
            fix=f"list PCR {names}, from the released tuple",
            evidence={f"pcr{n:02}": "ff" * 32 for n in missing}
            | {f"pcr{n:02}": v[0] for n, v in lists.items() if v},
        )
    for register in sorted(set(lists) & set(_RESETTABLE)):
        yield PermissivePath(
            code="keylime.tpm.resettable",
            where=f"tpm_policy {register}",
            what="a register that software resets says nothing of what was booted",
            fix="leave it out",
        )
    for register, values in lists.items():
        if any(len(value) == 40 for value in values):
            yield PermissivePath(
                code="keylime.tpm.sha1",
                where=f"tpm_policy {register}",
                what="a SHA-1 value, for which collisions are made",
                fix="list SHA-256 values, and accept_tpm_hash_algs = sha256",
            )


def _mixed(
    columns: list[int],
    lists: Mapping[int, list[str]],
    accepted: list[tuple[str, ...]],
    ours: set[tuple[Any, ...]] | None,
) -> Iterator[PermissivePath]:
    several = [n for n in columns if len(set(lists[n])) > 1]
    strangers = [row for row in accepted if ours is not None and row not in ours]
    if not strangers and (ours is not None or len(several) < 2):
        return
    shown = strangers[0] if strangers else accepted[-1]
    counted = f"released {len(ours)} · accepted {len(set(accepted))}: " if ours is not None else ""
    yield PermissivePath(
        code="keylime.tpm.mixed-tuples",
        where=f"tpm_policy {', '.join(map(str, several or columns))}",
        what=f"{counted}each register's list stands alone, so values of different releases are accepted together",
        fix="one TPM policy for each release, given to the machines that run it",
        evidence={f"pcr{n:02}": value for n, value in zip(columns, shown, strict=True)},
    )


def _runtime(found: Mapping[str, Any]) -> Iterator[PermissivePath]:
    for number, pattern in enumerate(found["excludes"]):
        where = f"excludes[{number}] {pattern!r}"
        try:
            hit = next((path for path in _PROBES if re.match(pattern, path)), None)
        except (re.error, TypeError):
            raise Malformed("runtime policy", at=where, want="a regular expression", got="none") from None
        if hit:
            yield PermissivePath(
                code="keylime.runtime.excludes",
                where=where,
                what="files that it matches are accepted with any content",
                fix="exclude exact paths that no program is loaded from, or nothing",
                evidence={"path": hit, "digest": "ff" * 32},
            )
    if "*" in (found["ima"].get("ignored_keyrings") or ()):
        yield PermissivePath(
            code="keylime.runtime.keyrings",
            where="ima.ignored_keyrings",
            what="keys added to any keyring are accepted",
            fix="list the keyrings by name, and their keys under keyrings",
        )
    if found.get("verification-keys"):
        yield PermissivePath(
            code="keylime.runtime.signed-files",
            where="verification-keys",
            what="a file that one of these keys ever signed is accepted in any version, old ones too",
            fix="list digests",
        )


def _refstate(found: Mapping[str, Any]) -> Iterator[PermissivePath]:
    if not found:
        yield PermissivePath(
            code="keylime.refstate.empty",
            where="document",
            what="an empty reference state is accept-all: no event log is compared",
            fix="a reference state of the release, or pinned registers in tpm_policy",
            evidence={"event_log": []},
        )
        return
    if found.get("has_secureboot", True) is False:
        yield PermissivePath(
            code="keylime.refstate.secure-boot",
            where="has_secureboot",
            what="Secure Boot may be off, and empty PK, KEK and db lists accept every key",
            fix="has_secureboot true, and the keys of the release",
        )
    kernels = found.get("kernels") if isinstance(found.get("kernels"), list) else []
    for number, kernel in enumerate(kernels or ()):
        pattern = kernel.get("kernel_cmdline", "") if isinstance(kernel, dict) else ""
        where = f"kernels[{number}].kernel_cmdline {pattern!r}"
        try:
            loose = re.fullmatch(pattern, "init=/bin/sh rootflags=evil") or re.fullmatch(
                pattern, "x init=/bin/sh"
            )
        except (re.error, TypeError):
            raise Malformed("reference state", at=where, want="a regular expression", got="none") from None
        if loose:
            yield PermissivePath(
                code="keylime.refstate.cmdline",
                where=where,
                what="matches command lines that start something else",
                fix="the release's own command line, with re.escape",
                evidence={"kernel_cmdline": loose[0]},
            )
    firmwares: list[Any] = list(found.get("scrtm_and_bios") or ())
    if len(firmwares) > 1 and len(kernels or ()) > 1:
        yield PermissivePath(
            code="keylime.refstate.mixed-tuples",
            where="scrtm_and_bios, kernels",
            what=f"{len(firmwares)} firmwares and {len(kernels or ())} kernels are accepted in every combination",
            fix="one reference state for each release",
            evidence={"scrtm_and_bios": firmwares[0], "kernel": kernels[-1] if kernels else None},
        )
