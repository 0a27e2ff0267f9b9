"""What a Keylime verifier decides by an agent's policies.

Source: keylime 7.14, keylime/tpm/tpm_util.py (readPolicy), keylime/tpm/tpm_main.py (check_pcrs, __check_ima),
keylime/ima/ima.py (RUNTIME_POLICY_SCHEMA, _validate_ima_ng, _process_measurement_list). Our own words for these; the
tests run Keylime's own code beside them where it is installed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tallystick.core.errors import Malformed

IMA_PCR, DATA_PCR = 10, 16  # of IMA, and of the key that Keylime binds; neither can stand in a TPM policy
BOOT_AGGREGATE = "boot_aggregate"
_LISTS = ("digests", "keyrings", "ima-buf")
_WHAT = "Keylime policy"


@dataclass(frozen=True, slots=True)
class ImaEntry:
    """One line of an IMA list, as far as a runtime policy sees it."""

    path: str
    digest: str  # hex


def read_tpm_policy(found: Any) -> dict[int, tuple[str, ...]]:
    """Return a TPM policy as ``readPolicy`` does: register -> values that are accepted, in lower case.

    Raises:
        Malformed: Keylime would not take it, or it says nothing of any register.
    """
    if not isinstance(found, dict) or not found:
        raise _bad("tpm_policy", "registers with their values", found)
    policy: dict[int, tuple[str, ...]] = {}
    for name, values in found.items():
        if not name.isascii() or not name.isdigit() or int(name) > 23 or str(int(name)) != name:
            raise _bad("tpm_policy", "numbers of registers, 0 to 23", name)
        if int(name) in (IMA_PCR, DATA_PCR):
            raise _bad("tpm_policy", "neither 10 nor 16, which Keylime uses itself", name)
        listed = [values] if isinstance(values, str) else values
        if not isinstance(listed, list) or not all(isinstance(value, str) for value in listed):
            raise _bad(f"tpm_policy.{name}", "a list of hex digests", values)
        policy[int(name)] = tuple(value.lower() for value in listed)
    return policy


def pcrs_hold(policy: Mapping[int, Sequence[str]], pcrs: Mapping[int, str]) -> bool:
    """Say whether a quote's registers hold: each that the policy names is there, with a value that it lists."""
    return all(register in pcrs and pcrs[register] in values for register, values in policy.items())


def read_runtime_policy(found: Any) -> dict[str, Any]:
    """Return a runtime policy of Keylime's schema.

    Raises:
        Malformed: another form.
    """
    if not isinstance(found, dict) or not {
        "meta",
        "release",
        "excludes",
        "ima",
        *_LISTS,
        "verification-keys",
    } <= set(found):
        raise _bad("runtime_policy", "every field of Keylime's schema", found)
    for name in _LISTS:
        for path, digests in found[name].items():
            if not digests or not all(re.fullmatch(r"[0-9a-f]{40,128}", digest) for digest in digests):
                raise _bad(f"runtime_policy.{name}.{path}", "digests", digests)
    ima = found["ima"]
    if not isinstance(ima, dict) or not {"ignored_keyrings", "log_hash_alg", "dm_policy"} <= set(ima):
        raise _bad("runtime_policy.ima", "every field of Keylime's schema", ima)
    if ima["log_hash_alg"] not in ("sha1", "sha256", "sha384", "sha512") or ima["dm_policy"] is not None:
        raise _bad("runtime_policy.ima", "a known log_hash_alg, and no dm_policy", ima)
    if not isinstance(found["verification-keys"], str):
        raise _bad("runtime_policy.verification-keys", "a text", found["verification-keys"])
    if not all(isinstance(one, str) for one in found["excludes"]):
        raise _bad("runtime_policy.excludes", "regular expressions", found["excludes"])
    return dict(found)


def entries_hold(policy: Mapping[str, Any], entries: Sequence[ImaEntry]) -> bool:
    """Say whether every entry of an IMA list is one that the policy lists; an excluded path always is."""
    excluded = [re.compile(one) for one in policy["excludes"]]
    return all(
        any(one.match(entry.path) for one in excluded)
        or entry.digest in policy["digests"].get(entry.path, ())
        for entry in entries
    )


def boot_aggregate(pcrs: Mapping[int, str]) -> str:
    """Return what IMA's first entry is: a hash over registers 0 to 9 of the same bank.

    Source: Linux, security/integrity/ima/ima_crypto.c, ima_calc_boot_aggregate_tfm: 8 and 9 since 5.8, for every
    algorithm but SHA-1.
    """
    return hashlib.sha256(b"".join(bytes.fromhex(pcrs[register]) for register in range(10))).hexdigest()


def _bad(at: str, want: str, got: object) -> Malformed:
    return Malformed(_WHAT, at=at, want=want, got=repr(got)[:80])
