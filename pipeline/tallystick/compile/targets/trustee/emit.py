"""The files for a Trustee deployment, and what its languages can not say."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tallystick.compile.errors import Inexpressible
from tallystick.compile.targets.base import Emitted, Lack
from tallystick.compile.targets.trustee import limits, rego
from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.compile.targets.trustee.readme import readme
from tallystick.core.errors import Unsupported
from tallystick.core.expect import AtLeast, Exactly, Expect, OneOf, Waived
from tallystick.core.findings import Finding
from tallystick.policy import document
from tallystick.policy.normal import NormalForm, Tuple

NAME = "trustee"
AS_POLICY = "as_default_cpu.rego"
RESOURCE_POLICY = "resource_policy.rego"
RESIDUAL = "residual.json"
README = "README.md"
VERSIONS = ("0.21",)
_TUPLES_IN_A_MESSAGE = 512  # about 600 kB, well below the 2 MiB of one request
# Claims of Trustee's tpm verifier, deps/verifier/src/tpm/mod.rs: every PCR, and the attestation key as sent.
_CLAIMS = {"tpm-quote": frozenset({*(f"pcr{number:02}" for number in range(24)), "ak_public"})}

KEY_ROOT = Lack(
    requirement="attestation-key-root",
    why="Trustee's TPM verifier takes the attestation key from the evidence and asks nobody where it is from: "
    "whoever knows the released PCR values, which are public, can sign them with a key of their own; "
    "list `attestation_keys`, or waive this by name",
)
PCR_SELECTION = Lack(
    requirement="pcr-selection",
    why="Trustee's TPM verifier hashes the PCR values in the order given and does not compare the quote's own "
    "selection: a machine's owner can present a resettable register (16, 23) in the place of another",
)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Tuples of one shape that go into the RVPS under one name."""

    name: str
    rows: list[dict[str, Any]]


def lacks(form: NormalForm, choice: TrusteeTarget) -> Iterator[Lack]:
    """Yield every requirement of ``form`` that Trustee can not express."""
    if choice.version not in VERSIONS:
        want = "one of " + ", ".join(VERSIONS)
        raise Unsupported("trustee", at=f"version ({choice.place})", want=want, got=choice.version)
    for rule in form.platforms:
        claims = _CLAIMS.get(rule.evidence_kind)
        if claims is None:
            why = f"no Trustee policy is made for {rule.evidence_kind} yet"
            yield Lack(requirement=f"platform-{rule.platform}", why=why)
            continue
        for path, _ in rule.require:
            if path not in claims:
                yield Lack(requirement=f"claim-{path}", why=f"Trustee's verifier does not tell {path}")
        if not choice.attestation_keys:
            yield KEY_ROOT
        yield PCR_SELECTION
    if choice.session_minutes * 60 >= form.max_age_seconds:
        yield Lack(
            requirement="freshness",
            why=f"a session of {choice.session_minutes} minute(s) leaves no time for a token within "
            f"{form.max_age_seconds} s",
        )


def emit(form: NormalForm, choice: TrusteeTarget) -> Emitted:
    """Return the files; :meth:`Backend.emit` says more."""
    waived = {r.requirement: r.waived for r in form.residuals if r.target == NAME}
    ends = [form.not_after, *(w.until for w in waived.values() if isinstance(w, Waived))]
    not_after = min(ends)
    whys = {lack.requirement: lack.why for lack in lacks(form, choice)}
    chunks, rows = _chunks(form)
    appraisal = rego.Appraisal(
        head=rego.Head(
            policy=form.policy,
            policy_digest=str(form.policy_digest),
            channel=form.channel,
            normal_form=str(document.digest(form)),
            not_after=not_after,
            releases=form.releases,
            residuals=tuple(f"{name}: {_decision(waived[name])}" for name in sorted(waived)),
        ),
        rows=rows,
        require=tuple(_conditions(form, skip=frozenset(waived))),
        attestation_keys=choice.attestation_keys,
        keys=form.keys,
        token_seconds=form.max_age_seconds - choice.session_minutes * 60,
    )
    files = {
        AS_POLICY: rego.evidence_policy(appraisal).encode("utf-8"),
        RESOURCE_POLICY: rego.resource_policy(appraisal).encode("utf-8"),
        RESIDUAL: _residual(form, choice, whys),
    }
    files |= {f"rvps_{number}.json": _message(chunk) for number, chunk in enumerate(chunks)}
    files[README] = readme(appraisal, choice, files, assumptions(choice)).encode("utf-8")
    _check_room(form, files)
    return Emitted(
        target=NAME,
        files=dict(sorted(files.items())),
        max_age_seconds=form.max_age_seconds,
        not_after=not_after,
        assumes=assumptions(choice),
    )


def assumptions(choice: TrusteeTarget) -> tuple[str, ...]:
    """Return what the deployment's configuration must say, because no policy can."""
    return (
        f"KBS: attestation_service.timeout = {choice.session_minutes} (minutes from challenge to evidence)",
        "KBS: attestation_token.insecure_header_jwk = false; trusted_certs_paths names its attestation service",
        "KBS: admin.authorization_mode is AuthenticatedAuthorization: whoever can write policies gets the keys",
        "KBS: no other resource policy is set afterwards; it has one for all resources",
    )


def _chunks(form: NormalForm) -> tuple[list[_Chunk], tuple[rego.Rows, ...]]:
    """Return what goes into the RVPS, and how the policy finds it again."""
    shapes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for release in form.releases:
        for entry in release.tuples:
            pinned = _pinned(entry)
            row = {"release": str(release.digest), **pinned}
            shapes.setdefault(tuple(pinned), []).append(row)
    chunks: list[_Chunk] = []
    rows: list[rego.Rows] = []
    for paths, found in sorted(shapes.items()):
        ids = []
        for start in range(0, len(found), _TUPLES_IN_A_MESSAGE):
            name = f"tallystick/{form.policy}/tuples/{len(chunks)}"
            chunks.append(_Chunk(name, found[start : start + _TUPLES_IN_A_MESSAGE]))
            ids.append(name)
        rows.append(rego.Rows(ids=tuple(ids), paths=paths))
    return chunks, tuple(rows)


def _pinned(entry: Tuple) -> dict[str, bool | int | str]:
    return {path: expect.value for path, expect in entry.expect if isinstance(expect, Exactly)}


def _message(chunk: _Chunk) -> bytes:
    """Return an RVPS message of the ``sample`` extractor, which stores what it is given.

    Source: Trustee, rvps/src/lib.rs (Message) and rvps/src/extractors/sample.
    """
    payload = json.dumps({chunk.name: chunk.rows}, sort_keys=True, separators=(",", ":")).encode()
    message = {"payload": base64.b64encode(payload).decode(), "type": "sample", "version": "0.1.0"}
    return (json.dumps(message, sort_keys=True, indent=1) + "\n").encode()


def _conditions(form: NormalForm, skip: frozenset[str]) -> Iterator[str]:
    for rule in form.platforms:
        for path, expect in rule.require:
            if f"claim-{path}" not in skip:
                yield from _condition(f"input.tpm.{path}", expect)


def _condition(claim: str, expect: Expect) -> Iterator[str]:
    if isinstance(expect, Exactly):
        yield f"{claim} == {json.dumps(expect.value)}"
    elif isinstance(expect, OneOf):
        yield f"{claim} in {{{', '.join(json.dumps(value) for value in expect.values)}}}"
    elif isinstance(expect, AtLeast):
        # A text compares as greater than every number, and so does a number with null: ask for the type first.
        yield f"is_number({claim})"
        yield f"{claim} >= {expect.minimum}"
    else:
        raise ValueError("a requirement on every tuple is never a waiver")


def _residual(form: NormalForm, choice: TrusteeTarget, whys: dict[str, str]) -> bytes:
    found = [
        {
            "requirement": residual.requirement,
            "why": whys[residual.requirement],
            **document.expectation_document(residual.waived),
        }
        for residual in form.residuals
        if residual.target == NAME
    ]
    out = {
        "schema": "tallystick/residual/v1",
        "target": f"{NAME} {choice.version}",
        "not_checked": found,
        "assumed": list(assumptions(choice)),
    }
    return (json.dumps(out, indent=2) + "\n").encode()


def _decision(waived: Expect) -> str:
    if not isinstance(waived, Waived):
        raise ValueError("a residual is a waiver")
    return f"{waived.decision}, decided by {waived.decided_by}"


def _check_room(form: NormalForm, files: dict[str, bytes]) -> None:
    findings: list[Finding] = []
    for name, data in sorted(files.items()):
        if name.endswith(".rego"):
            findings += limits.check(name, data.decode("utf-8"))
        # A policy travels as base64 in a JSON request; a message is the request itself.
        size = len(data) * 4 // 3 + 256 if name.endswith(".rego") else len(data)
        if size > limits.MOST_REQUEST_BYTES:
            want = f"at most {limits.MOST_REQUEST_BYTES} bytes in one request"
            findings.append(Finding("trustee.limit.request", name, want=want, got=str(size)))
    if findings:
        room = _room(form, files)
        raise Inexpressible(
            f"trustee: {len(form.releases)} releases do not fit; about {room} would", findings=findings
        )


def _room(form: NormalForm, files: dict[str, bytes]) -> int:
    """Return about how many releases fit: the two policies grow by the same lines for each of them."""
    worst = max(
        max(len(data) / limits.MOST_FILE_BYTES, data.count(b"\n") / limits.MOST_LINES)
        for name, data in files.items()
        if name.endswith(".rego")
    )
    return int(len(form.releases) / max(worst, 1e-9))
