"""The normal form as its one document: RFC 8785 bytes, written and read back strictly.

Source: docs/schemas/compiled.schema.json. The ``broker`` target is this document.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, assert_never

from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.expect import (
    AtLeast,
    AtLeastVersion,
    Exactly,
    Excludes,
    Expect,
    Includes,
    NoneOf,
    OneOf,
    Only,
    Waived,
)
from tallystick.policy.jsonfields import JsonFields
from tallystick.policy.normal import (
    Denial,
    DeviceRule,
    KeyRule,
    NormalForm,
    PermittedRelease,
    Placement,
    PlatformRule,
    Residual,
    Tuple,
)
from tallystick.policy.soundness import flaws

SCHEMA = "tallystick/compiled/v1"
MAX_BYTES = 64 << 20
_WHAT = "compiled policy"


def write(form: NormalForm) -> bytes:
    """Return the document of ``form``: equal forms give equal bytes."""
    import rfc8785

    return rfc8785.dumps(to_document(form))


def digest(form: NormalForm) -> Digest:
    """Return the sha256 of the document of ``form``."""
    return Digest.of(write(form))


def read(data: bytes) -> NormalForm:
    """Return the normal form that ``data`` is.

    Raises:
        Malformed: not RFC 8785 bytes of the published schema; unknown fields, unsorted or doubled entries; or
            a form that no compiler makes (:func:`tallystick.policy.soundness.flaws`).
        Unsupported: another schema.
    """
    import rfc8785

    document = jsondoc.loads(data, _WHAT, max_bytes=MAX_BYTES)
    form = from_document(document)
    if rfc8785.dumps(document) != data:
        raise Malformed(_WHAT, at="bytes", want="RFC 8785 form", got="another spelling of the same values")
    return form


def to_document(form: NormalForm) -> dict[str, Any]:
    """Return ``form`` as a JSON value."""
    return {
        "schema": SCHEMA,
        "policy": form.policy,
        "policy_digest": str(form.policy_digest),
        "channel": form.channel,
        "keys": [{"key": rule.key, "artifact": rule.artifact} for rule in form.keys],
        "releases": [_from_release(release) for release in form.releases],
        "platforms": [
            {
                "platform": rule.platform,
                "evidence_kind": rule.evidence_kind,
                "roots": list(rule.roots),
                "require": _from_expectations(rule.require),
                "deny": [_from_denial(denial) for denial in rule.deny],
                "placement": [_from_placement(placement) for placement in rule.placement],
                "devices": [_from_device(device) for device in rule.devices],
            }
            for rule in form.platforms
        ],
        "parties": list(form.parties),
        "max_age_seconds": form.max_age_seconds,
        "reattest_seconds": form.reattest_seconds,
        "waivers": _from_expectations(form.waivers),
        "residuals": [
            {"target": r.target, "requirement": r.requirement, **_from_expect(r.waived)}
            for r in form.residuals
        ],
        "not_after": _from_time(form.not_after),
    }


def from_document(document: Any) -> NormalForm:
    """Return the normal form that the JSON value ``document`` is; errors as :func:`read`."""
    fields = JsonFields(document, _WHAT)
    schema = fields.text("schema")
    if schema != SCHEMA:
        raise Unsupported(_WHAT, at="schema", want=SCHEMA, got=schema)
    form = NormalForm(
        policy=fields.text("policy"),
        policy_digest=fields.digest("policy_digest"),
        channel=fields.text("channel"),
        keys=fields.rows("keys", _key, lambda rule: rule.key),
        releases=fields.rows("releases", _release, lambda release: str(release.digest)),
        platforms=fields.rows("platforms", _platform, lambda rule: rule.platform),
        parties=fields.texts("parties"),
        max_age_seconds=fields.integer("max_age_seconds", least=1),
        reattest_seconds=fields.integer("reattest_seconds", least=1),
        waivers=fields.expectations("waivers"),
        residuals=fields.rows("residuals", _residual, lambda r: (r.target, r.requirement)),
        not_after=fields.time("not_after"),
    )
    fields.end()
    for flaw in flaws(form):
        raise Malformed(_WHAT, at=flaw.where, want=flaw.want, got=flaw.got, code=flaw.code)
    return form


def expectation_document(expect: Expect) -> dict[str, Any]:
    """Return one expectation as a JSON value."""
    return _from_expect(expect)


def _from_release(release: PermittedRelease) -> dict[str, Any]:
    return {
        "digest": str(release.digest),
        "name": release.name,
        "version": release.version,
        "promoted_at": _from_time(release.promoted_at),
        "vsa": str(release.vsa),
        "bundles": [str(bundle) for bundle in release.bundles],
        "labels": list(release.labels),
        "tuples": [
            {
                "platform": entry.platform,
                "evidence_kind": entry.evidence_kind,
                "image": str(entry.image),
                "firmware": str(entry.firmware),
                "shape": dict(entry.shape),
                "expect": _from_expectations(entry.expect),
                **({"artifacts": [str(one) for one in entry.artifacts]} if entry.artifacts else {}),
            }
            for entry in release.tuples
        ],
    }


def _from_expectations(pairs: Sequence[tuple[str, Expect]]) -> dict[str, Any]:
    return {path: _from_expect(expect) for path, expect in pairs}


def _from_expect(expect: Expect) -> dict[str, Any]:
    match expect:
        case Exactly(value):
            return {"exactly": value}
        case OneOf(values):
            return {"one_of": list(values)}
        case NoneOf(values):
            return {"none_of": list(values)}
        case AtLeast(minimum):
            return {"at_least": minimum}
        case AtLeastVersion(version):
            return {"at_least_version": version}
        case Only(texts):
            return {"only": list(texts)}
        case Includes(texts):
            return {"includes": list(texts)}
        case Excludes(texts):
            return {"excludes": list(texts)}
        case Waived(decision, decided_by, until):
            waiver = {"decision": decision, "decided_by": decided_by, "until": _from_time(until)}
            return {"waived": waiver}
        case _:
            assert_never(expect)


def _from_denial(denial: Denial) -> dict[str, Any]:
    return {
        "name": denial.name,
        "claim": denial.claim,
        "values": list(denial.values),
        "reason": denial.reason,
        "since": denial.since.isoformat(),
    }


def _from_placement(placement: Placement) -> dict[str, Any]:
    return {
        "name": placement.name,
        "values": list(placement.values),
        "strength": placement.strength,
        "claim": placement.claim,
    }


def _from_device(device: DeviceRule) -> dict[str, Any]:
    return {
        "platform": device.platform,
        "evidence_kind": device.evidence_kind,
        "roots": list(device.roots),
        "least": device.least,
        "require": _from_expectations(device.require),
        "deny": [_from_denial(denial) for denial in device.deny],
    }


def _from_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(fields: JsonFields) -> KeyRule:
    return KeyRule(key=fields.text("key"), artifact=fields.text("artifact"))


def _platform(fields: JsonFields) -> PlatformRule:
    return PlatformRule(
        platform=fields.text("platform"),
        evidence_kind=fields.text("evidence_kind"),
        roots=fields.texts("roots"),
        require=fields.expectations("require"),
        deny=fields.rows("deny", _denial, lambda denial: denial.name),
        placement=fields.rows("placement", _placement, lambda placement: placement.name),
        devices=fields.rows("devices", _device, lambda device: device.platform),
    )


def _device(fields: JsonFields) -> DeviceRule:
    return DeviceRule(
        platform=fields.text("platform"),
        evidence_kind=fields.text("evidence_kind"),
        roots=fields.texts("roots"),
        least=fields.integer("least", least=1),
        require=fields.expectations("require"),
        deny=fields.rows("deny", _denial, lambda denial: denial.name),
    )


def _denial(fields: JsonFields) -> Denial:
    return Denial(
        name=fields.text("name"),
        claim=fields.text("claim"),
        values=fields.scalars("values"),
        reason=fields.text("reason"),
        since=fields.day("since"),
    )


def _placement(fields: JsonFields) -> Placement:
    claim = fields.take("claim")
    if not isinstance(claim, str):
        raise fields.bad("claim", want="a claim's name, or nothing", got=claim)
    return Placement(
        name=fields.text("name"),
        values=fields.texts("values"),
        strength=fields.text("strength"),
        claim=claim,
    )


def _residual(fields: JsonFields) -> Residual:
    target, requirement = fields.text("target"), fields.text("requirement")
    waived = fields.expect()
    if not isinstance(waived, Waived):
        raise Malformed(_WHAT, at=f"residual {requirement}", want="a waiver", got="an expectation")
    return Residual(target=target, requirement=requirement, waived=waived)


def _release(fields: JsonFields) -> PermittedRelease:
    bundles = fields.texts("bundles")
    return PermittedRelease(
        digest=fields.digest("digest"),
        name=fields.text("name"),
        version=fields.text("version"),
        promoted_at=fields.time("promoted_at"),
        vsa=fields.digest("vsa"),
        bundles=tuple(Digest.parse(text) for text in bundles),
        labels=fields.texts("labels"),
        tuples=fields.rows("tuples", _tuple, tuple_order),
    )


def _tuple(fields: JsonFields) -> Tuple:
    artifacts = fields.texts("artifacts") if fields.has("artifacts") else None
    if artifacts == ():
        raise fields.bad("artifacts", want="at least one, or no such field", got="none")
    return Tuple(
        platform=fields.text("platform"),
        evidence_kind=fields.text("evidence_kind"),
        image=fields.digest("image"),
        firmware=fields.digest("firmware"),
        shape=_shape(fields),
        expect=fields.expectations("expect"),
        artifacts=tuple(Digest.parse(text) for text in artifacts or ()),
    )


def _shape(fields: JsonFields) -> tuple[tuple[str, int | str], ...]:
    value = fields.take("shape")
    if not isinstance(value, dict):
        raise fields.bad("shape", want="an object", got=value)
    for entry in value.values():
        if not isinstance(entry, int | str) or isinstance(entry, bool):
            raise fields.bad("shape", want="texts and whole numbers", got=entry)
    return tuple(sorted(value.items()))


def tuple_order(entry: Tuple) -> tuple[str, str]:
    """Return what a release's tuples are sorted by: the platform, then the shape and every expectation."""
    import json

    rest = [dict(entry.shape), str(entry.image), str(entry.firmware), _from_expectations(entry.expect)]
    return entry.platform, json.dumps(rest, sort_keys=True)
