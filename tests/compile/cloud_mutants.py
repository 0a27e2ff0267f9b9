"""Emitted cloud policies with one thing changed: every condition dropped, weakened or flipped, every set widened."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from compile.changed import values

from tallystick.compile.targets.azure_skr.attestation import policy_hash

OTHER = "ab" * 48
Mutant = tuple[str, Mapping[str, bytes]]
_AWS_SWAPS = {
    "StringEqualsIgnoreCase": (
        "StringEqualsIgnoreCaseIfExists", "StringNotEqualsIgnoreCase", "StringLike", "StringLikeIfExists",
        "ForAllValues:StringEqualsIgnoreCase", "ForAnyValue:StringEqualsIgnoreCase", "StringEqualsIfExists", "Null",
    ),
    "StringNotEqualsIgnoreCase": (
        "StringEqualsIgnoreCase", "StringNotEquals", "ForAnyValue:StringNotEquals", "StringNotLike",
    ),
    "DateGreaterThan": ("DateLessThan", "DateGreaterThanEquals", "DateLessThanEquals"),
    '"Effect":"Allow"': ('"Effect":"Deny"',),
    '"Effect":"Deny"': ('"Effect":"Allow"',),
    '"Action"': ('"NotAction"',),
    '"Principal"': ('"NotPrincipal"',),
    '"Principal":"*"': ('"Principal":{"AWS":"arn:aws:iam::111122223333:role/Workload"}',),
    "role/Workload": ("root", "role/Other", "role/*"),
    "role/KeyAdmin": ("root", "role/Workload"),
    "kms:Decrypt": ("kms:*", "kms:D*", "kms:CreateGrant", "kms:GenerateDataKey"),
    "kms:DescribeKey": ("kms:*", "kms:CreateGrant", "kms:Decrypt"),
    "kms:RecipientAttestation:PCR": ("kms:RecipientAttestation:NitroTPMPCR", "aws:RequestTag/PCR"),
    "ImageSha384": ("PCR0", "PCR1"),
    '"Resource":"*"': ('"Resource":"arn:aws:kms:eu-central-1:111122223333:key/9"',),
    "2012-10-17": ("2008-10-17",),
}  # fmt: skip
_MAA_SWAPS = {
    ">=": (">", "<=", "==", "!="),
    "==false": ("==true", "!=false", "!=true"),
    "==0": (">=0", "==1", "!=0", "<=0"),
    ', issuer=="AttestationService"': ("", ', issuer=="CustomClaim"', ', issuer=="AttestationPolicy"'),
    "permit()": ("deny()",),
    "=> permit();": ("=> permit();\n    => permit();", "=> permit();\n    => deny();"),
    "[type==": ("![type==",),
    "-svn": ("-other",),
}
_CEL_SWAPS = {
    " == ": (" != ",),
    " && ": (" || ",),
    "!has(": ("has(",),
    "!(": ("(",),
    " in ": (" == ",),
    "true": ("false",),
    "startsWith('')": ("startsWith('x')",),
    "disabled-since-boot": ("enabled", "enable", ""),
    "'GCP_AMD_SEV'": ("'GCP_SHIELDED_VM'", "'GCP_AMD_SEV', 'GCP_SHIELDED_VM'"),
    "CONFIDENTIAL_SPACE": ("GCE",),
    "STABLE": ("USABLE", "LATEST"),
    "assertion.": ("assertion.submods.",),
    "['us-west1-a']": ("[]", "['us-west1-b']"),
    ".all(": (".exists(",),
}


def mutants(target: str, files: Mapping[str, bytes]) -> Iterator[Mutant]:
    """Every change of the files of ``target``."""
    found = {"aws-kms": _aws, "azure-skr": _azure, "gcp-wif": _gcp}[target](files)
    seen = {tuple(sorted(files.items()))}
    for what, changed in found:
        mark = tuple(sorted(changed.items()))
        if mark not in seen:
            seen.add(mark)
            yield what, changed


def _aws(files: Mapping[str, bytes]) -> Iterator[Mutant]:
    name = "key-policy.json"
    document = json.loads(files[name])
    for what, found in values(document):
        yield f"{name}: {what}", {**files, name: _compact(found)}
    for what, text in swapped(files[name].decode(), _AWS_SWAPS):
        yield f"{name}: {what}", {**files, name: text.encode()}
    for number, statement in enumerate(document["Statement"]):
        for operator, keys in statement.get("Condition", {}).items():
            for key, value in keys.items():
                for wider in ([*_listed(value), OTHER], [*_listed(value), "*"], _listed(value)[:-1] or ["x"]):
                    copy = json.loads(files[name])
                    copy["Statement"][number]["Condition"][operator][key] = wider
                    yield (
                        f"{name}: Statement[{number}] {operator} {key} {len(wider)}",
                        {**files, name: _compact(copy)},
                    )
    for extra in (
        {
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
            "Action": "kms:*",
            "Resource": "*",
        },
        {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"},
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "kms:CreateGrant",
            "Resource": "*",
        },
    ):
        copy = json.loads(files[name])
        copy["Statement"].append(extra)
        yield f"{name}: one more statement {extra['Principal']}", {**files, name: _compact(copy)}


def _azure(files: Mapping[str, bytes]) -> Iterator[Mutant]:
    name = "release-policy.json"
    for what, found in values(json.loads(files[name])):
        yield f"{name}: {what}", {**files, name: _compact(found)}
    flips = {
        '"allOf"': ('"anyOf"',),
        '"anyOf"': ('"allOf"',),
        '"claim"': ('"notEquals"',),
        "sevsnpvm": ("tdxvm", "sgx"),
    }
    for what, text in swapped(files[name].decode(), flips):
        yield f"{name}: {what}", {**files, name: text.encode()}
    own = "attestation-policy-sevsnpvm.txt"
    if own in files:
        for what, text in [*swapped(files[own].decode(), _MAA_SWAPS), *_maa(files[own].decode())]:
            yield f"{own}: {what}", _pinned(files, name, own, text.encode())


def _maa(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.split("\n") if "[type" in line]
    for line in lines:
        kept = [one for one in lines if one != line]
        body = "\n".join(one.strip().removeprefix("&& ") for one in kept).replace("\n", " && ")
        start, end = text.index(lines[0]), text.index(lines[-1]) + len(lines[-1])
        yield f"dropped {line.strip()}", text[:start] + body + text[end:]
    for match in re.finditer(r"(>=|==)(\d+)", text):
        for other in (int(match[2]) + 1, int(match[2]) - 1):
            if other >= 0:
                yield f"{match[0]} {other}", f"{text[: match.start()]}{match[1]}{other}{text[match.end() :]}"


def _pinned(files: Mapping[str, bytes], name: str, own: str, data: bytes) -> dict[str, bytes]:
    """The changed attestation policy, and the release policy that asks for its hash."""
    old, new = policy_hash(files[own]).encode(), policy_hash(data).encode()
    return {**files, own: data, name: files[name].replace(old, new)}


def _gcp(files: Mapping[str, bytes]) -> Iterator[Mutant]:
    name = "condition.cel"
    text = files[name].decode()
    parts = text.split(" && ")
    for number in range(len(parts)):
        yield (
            f"{name}: dropped {parts[number]}",
            {**files, name: " && ".join(parts[:number] + parts[number + 1 :]).encode()},
        )
    for what, changed in swapped(text, _CEL_SWAPS):
        yield f"{name}: {what}", {**files, name: changed.encode()}
    for whole in ("", "true", "false", f"{text} || true", f"!({text})", f"{text} && false"):
        yield f"{name}: {whole[-20:]}", {**files, name: whole.encode()}
    for match in re.finditer(r"sha256:[0-9a-f]{64}", text):
        yield (
            f"{name}: another digest",
            {**files, name: text.replace(match[0], f"sha256:{OTHER[:64]}").encode()},
        )
    name = "iam-policy.json"
    for what, found in values(json.loads(files[name])):
        yield f"{name}: {what}", {**files, name: _compact(found)}
    swaps = {
        "image_digest": ("project",),
        "acme": ("other",),
        "Decrypter": ("EncrypterDecrypter",),
        " <= ": (" < ", " >= "),
    }
    for what, changed in swapped(files[name].decode(), swaps):
        yield f"{name}: {what}", {**files, name: changed.encode()}
    document = json.loads(files[name])
    for member in (
        "allUsers",
        "serviceAccount:x@y.iam.gserviceaccount.com",
        f"{document['bindings'][0]['members'][0][:-8]}*",
    ):
        copy = json.loads(files[name])
        copy["bindings"][0]["members"].append(member)
        yield f"{name}: one more member {member}", {**files, name: _compact(copy)}
    name = "attribute-mapping.txt"
    yield f"{name}: another", {**files, name: files[name].replace(b"image_digest", b"image_reference")}


def swapped(text: str, swaps: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """Each spelling replaced once at each place where it stands."""
    for old, others in swaps.items():
        for match in re.finditer(re.escape(old), text):
            for new in others:
                yield f"{match.start()} {old} -> {new}", f"{text[: match.start()]}{new}{text[match.end() :]}"


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def _compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
