"""The files for a Trustee deployment, and what its languages can not say."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tallystick.compile.errors import Inexpressible
from tallystick.compile.targets.base import Emitted, Lack
from tallystick.compile.targets.common import papers, view
from tallystick.compile.targets.trustee import codec, conditions, limits, rego
from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.compile.targets.trustee.readme import readme
from tallystick.core.errors import Unsupported
from tallystick.core.expect import Exactly
from tallystick.core.findings import Finding
from tallystick.policy import document
from tallystick.policy.constraints import constraints, told, unplaced
from tallystick.policy.normal import DeviceRule, NormalForm, PermittedRelease, PlatformRule, Tuple

NAME = "trustee"
AS_POLICY = "as_default_cpu.rego"
GPU_POLICY = "as_default_gpu.rego"
RESOURCE_POLICY = "resource_policy.rego"
RESIDUAL, README = papers.RESIDUAL, papers.README
_QUOTES = frozenset({"tpm-quote", "azure-snp-vtpm", "azure-tdx-vtpm"})
# What the deployment must be set to where a verifier leaves it open.
_ASSUMED = {
    "cca-token": "AS: the CCA verifier's configuration trusts the attestation keys (CPAK) of this policy's roots",
    "nvidia-gpu": "AS: the NVIDIA verifier is the remote one (NRAS); the local one compares no measurement",
}
_TUPLES_IN_A_MESSAGE = 512  # about 600 kB, well below the 2 MiB of one request

KEY_ROOT = Lack(
    requirement="attestation-key-root",
    why="Trustee's TPM verifier takes the attestation key from the evidence and asks nobody where it is from: "
    "whoever knows the released PCR values, which are public, can sign them with a key of their own; "
    "list `attestation_keys`, or waive this by name",
)
PCR_SELECTION = Lack(
    requirement="pcr-selection",
    why="Trustee's verifiers of vTPM quotes hash the PCR values in the order given and do not compare the quote's own "
    "selection: a machine's owner can present a resettable register (16, 23) in the place of another",
)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Tuples of one shape that go into the RVPS under one name."""

    name: str
    rows: list[dict[str, Any]]


def lacks(form: NormalForm, choice: TrusteeTarget) -> Iterator[Lack]:
    """Yield every requirement of ``form`` that Trustee can not express."""
    if choice.version not in codec.VERSIONS:
        want = "one of " + ", ".join(codec.VERSIONS)
        raise Unsupported("trustee", at=f"version ({choice.place})", want=want, got=choice.version)
    for rule in form.platforms:
        tee = codec.tee(choice.version, rule.evidence_kind)
        if tee is None:
            why = f"Trustee {choice.version} has no verifier for {rule.evidence_kind}"
            yield Lack(requirement=f"platform-{rule.platform}", why=why)
            continue
        yield from _lacks_of_rule(choice, tee, rule)
        if rule.evidence_kind in _QUOTES:
            yield PCR_SELECTION
        if rule.evidence_kind == "tpm-quote" and (
            not choice.attestation_keys or "ak_public" not in tee.places
        ):
            yield KEY_ROOT
        for name in unplaced(rule):
            yield Lack(requirement=name, why="no claim of the evidence says it, and a KBS knows nothing else")
        for device in rule.devices:
            shown = codec.tee(choice.version, device.evidence_kind)
            if shown is None:
                why = f"Trustee {choice.version} has no verifier for {device.evidence_kind}"
                yield Lack(requirement=f"device-{device.platform}", why=why)
                continue
            yield from _lacks_of_rule(choice, shown, device)
    yield from _lacks_of_registers(form, choice)
    if choice.session_minutes * 60 >= form.max_age_seconds:
        yield Lack(
            requirement="freshness",
            why=f"a session of {choice.session_minutes} minute(s) leaves no time for a token within "
            f"{form.max_age_seconds} s",
        )


def _lacks_of_rule(choice: TrusteeTarget, tee: codec.Tee, rule: PlatformRule | DeviceRule) -> Iterator[Lack]:
    for one in constraints(rule):
        if not conditions.expressible(tee, one.path, one.expect):
            yield Lack(requirement=one.requirement, why=f"Trustee {choice.version} does not tell {one.path}")
    if tee.roots and not set(tee.roots) <= set(rule.roots):
        why = f"Trustee's verifier lets evidence end in {', '.join(tee.roots)}, whatever a policy says"
        yield Lack(requirement="roots", why=why)


def _lacks_of_registers(form: NormalForm, choice: TrusteeTarget) -> Iterator[Lack]:
    paths = {(t.evidence_kind, p) for r in form.releases for t in r.tuples for p, _ in t.expect}
    for kind, path in sorted(paths):
        tee = codec.tee(choice.version, kind)
        if tee is not None and path not in tee.places:
            yield Lack(requirement=f"register-{path}", why=f"Trustee {choice.version} does not tell {path}")


def emit(form: NormalForm, choice: TrusteeTarget) -> Emitted:
    """Return the files; :meth:`Backend.emit` says more."""
    return Emitted(
        target=NAME,
        files=files_of([form], choice),
        max_age_seconds=form.max_age_seconds,
        not_after=view.end(form, NAME),
        assumes=assumptions(choice, [form]),
    )


def files_of(forms: Sequence[NormalForm], choice: TrusteeTarget) -> dict[str, bytes]:
    """Return the files of one deployment that serves every form: policies with a part for each, and its own papers.

    Raises:
        Inexpressible: they are larger than Trustee takes; the error says how many releases fit.
    """
    made = [appraisal_of(form, choice) for form in forms]
    parts = [appraisal for _, appraisal in made]
    assumed = assumptions(choice, forms)
    files = {
        AS_POLICY: rego.evidence_policy(parts).encode("utf-8"),
        RESOURCE_POLICY: rego.resource_policy(parts).encode("utf-8"),
    }
    for form in forms:
        whys = {lack.requirement: lack.why for lack in lacks(form, choice)}
        name = RESIDUAL if len(forms) == 1 else f"residual-{form.policy}.json"
        files[name] = papers.residual(form, NAME, f"{NAME} {choice.version}", whys, assumed)
    if any(part.devices for part in parts):
        files[GPU_POLICY] = rego.device_policy(parts).encode("utf-8")
    chunks = [chunk for held, _ in made for chunk in held]
    files |= {f"rvps_{number}.json": _message(chunk) for number, chunk in enumerate(chunks)}
    files[README] = readme(parts, choice, files, assumed).encode("utf-8")
    _check_room(sum(len(form.releases) for form in forms), files)
    return dict(sorted(files.items()))


def appraisal_of(form: NormalForm, choice: TrusteeTarget) -> tuple[list[_Chunk], rego.Appraisal]:
    """Return what goes into the RVPS, and what the policies are made from."""
    asked = told(form, NAME)
    chunks, rows = _chunks(asked, choice)
    found = [(rule, codec.tee(choice.version, rule.evidence_kind)) for rule in asked.platforms]
    tees = [(rule, tee) for rule, tee in found if tee is not None]
    return chunks, rego.Appraisal(
        head=rego.Head(
            policy=form.policy,
            policy_digest=str(form.policy_digest),
            channel=form.channel,
            normal_form=str(document.digest(form)),
            not_after=view.end(form, NAME),
            releases=form.releases,
            residuals=tuple(papers.not_checked(form, NAME)),
        ),
        rows=rows,
        tees=tuple((rule.platform, tee.name) for rule, tee in tees),
        devices=tuple(_devices(choice, rule) for rule, _ in tees if rule.devices),
        attestation_keys=choice.attestation_keys,
        identity=bool(choice.attestation_keys) and all(tee.name == "tpm" for _, tee in tees),
        permits=tuple(
            sorted(
                {
                    f"{form.policy} {t.platform} {r.digest}"
                    for r in form.releases
                    for t in r.tuples
                    if asked.platform(t.platform)
                }
            )
        ),
        keys=form.keys,
        token_seconds=form.max_age_seconds - choice.session_minutes * 60,
    )


def _devices(choice: TrusteeTarget, rule: PlatformRule) -> rego.Devices:
    """Return what a platform's devices must show; Trustee knows one kind that has a policy of its own."""
    device = rule.devices[0]
    tee = codec.tee(choice.version, device.evidence_kind)
    if tee is None or len(rule.devices) != 1:
        raise ValueError("a device that Trustee can not express is a lack")
    lines = [line for c in constraints(device) for line in conditions.lines(tee, c.path, c.expect)]
    return rego.Devices(platform=rule.platform, tee=tee.name, least=device.least, require=tuple(lines))


def assumptions(choice: TrusteeTarget, forms: Sequence[NormalForm]) -> tuple[str, ...]:
    """Return what the deployment's configuration must say, because no policy can."""
    rules = [rule for form in forms for rule in form.platforms]
    kinds = {rule.evidence_kind for rule in rules}
    kinds |= {device.evidence_kind for rule in rules for device in rule.devices}
    return (
        *(line for kind, line in _ASSUMED.items() if kind in kinds),
        f"KBS: attestation_service.timeout = {choice.session_minutes} (minutes from challenge to evidence)",
        "KBS: attestation_token.insecure_header_jwk = false; trusted_certs_paths names its attestation service",
        "KBS: admin.authorization_mode is AuthenticatedAuthorization: whoever can write policies gets the keys",
        "KBS: no other resource policy is set afterwards; it has one for all resources",
    )


def _chunks(form: NormalForm, choice: TrusteeTarget) -> tuple[list[_Chunk], tuple[rego.Rows, ...]]:
    """Return what goes into the RVPS, and how the policy finds it again."""
    shapes: dict[tuple[str, str, tuple[str, ...]], list[dict[str, Any]]] = {}
    for release in form.releases:
        for entry in release.tuples:
            found = rows_of(form, choice, release, entry)
            if found is not None:
                paths = tuple(path for path in found if path != "release")
                shapes.setdefault((entry.platform, entry.evidence_kind, paths), []).append(found)
    chunks: list[_Chunk] = []
    rows: list[rego.Rows] = []
    for (platform, kind, paths), held in sorted(shapes.items()):
        ids = []
        for start in range(0, len(held), _TUPLES_IN_A_MESSAGE):
            name = reference_name(form, str(len(chunks)))
            chunks.append(_Chunk(name, held[start : start + _TUPLES_IN_A_MESSAGE]))
            ids.append(name)
        tee, rule = codec.tee(choice.version, kind), form.platform(platform)
        if tee is None or rule is None:
            raise ValueError("a tuple of a platform that the form does not have")
        asked = (c for c in constraints(rule) if c.path not in tee.enforced)
        require = [line for c in asked for line in conditions.lines(tee, c.path, c.expect)]
        pairs = tuple((path, tee.reference(path)) for path in paths)
        rows.append(rego.Rows(platform=platform, ids=tuple(ids), pairs=pairs, require=tuple(require)))
    return chunks, tuple(rows)


def reference_name(form: NormalForm, number: str) -> str:
    """Return what the RVPS calls a policy's tuples."""
    return f"tallystick/{form.policy}/tuples/{number}"


def rows_of(
    form: NormalForm, choice: TrusteeTarget, release: PermittedRelease, entry: Tuple
) -> dict[str, Any] | None:
    """Return a tuple as the RVPS holds it, in Trustee's spelling; None when Trustee has no such platform."""
    tee = codec.tee(choice.version, entry.evidence_kind)
    if tee is None or form.platform(entry.platform) is None:
        return None
    pinned = {path: expect.value for path, expect in entry.expect if isinstance(expect, Exactly)}
    shown = {path: codec.encode(v, tee.places[path].form) for path, v in pinned.items() if path in tee.places}
    return {"release": str(release.digest), **shown}


def _message(chunk: _Chunk) -> bytes:
    """Return an RVPS message of the ``sample`` extractor, which stores what it is given.

    Source: Trustee, rvps/src/lib.rs (Message) and rvps/src/extractors/sample.
    """
    payload = json.dumps({chunk.name: chunk.rows}, sort_keys=True, separators=(",", ":")).encode()
    message = {"payload": base64.b64encode(payload).decode(), "type": "sample", "version": "0.1.0"}
    return (json.dumps(message, sort_keys=True, indent=1) + "\n").encode()


def _check_room(releases: int, files: dict[str, bytes]) -> None:
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
        room = _room(releases, files)
        raise Inexpressible(f"trustee: {releases} releases do not fit; about {room} would", findings=findings)


def _room(releases: int, files: dict[str, bytes]) -> int:
    """Return about how many releases fit: the two policies grow by the same lines for each of them."""
    worst = max(
        max(len(data) / limits.MOST_FILE_BYTES, data.count(b"\n") / limits.MOST_LINES)
        for name, data in files.items()
        if name.endswith(".rego")
    )
    return int(releases / max(worst, 1e-9))
