"""Measurements as an in-toto statement: SCAI v0.3, one attribute for each release tuple.

Source: in-toto/attestation, spec/predicates/scai.md (v0.3). ``conditions`` is ours and closed:
docs/decisions/0013-measurements-as-scai.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import intoto
from tallystick.measure.records import Measurement, WaivedRegister

PREDICATE_TYPE = "https://in-toto.io/attestation/scai/v0.3"
ATTRIBUTE = "tallystick.measurement"
_WHAT = "measurement statement"
_PRODUCER = "pkg:pypi/tallystick"
_CONDITIONS = ("evidence_kind", "firmware", "platform", "shape", "values", "waived")
_WAIVED = ("decided_by", "decision", "name", "until")
_VALUE = re.compile(r"(?:[0-9a-f]{2})+|sha256:[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def to_statement(measurements: Sequence[Measurement], images: Mapping[Digest, str] | str) -> bytes:
    """Return the statement (RFC 8785 bytes) that carries ``measurements``.

    Args:
        images: each image's path in the release, by its digest: ``products/uki.efi``; or one path for one image.

    Raises:
        ValueError: no measurement, an image without a path, or several calculators: a caller's bug.
    """
    measured = dict.fromkeys(measurement.image for measurement in measurements)
    calculators = {measurement.calculator for measurement in measurements}
    if len(calculators) != 1 or (isinstance(images, str) and len(measured) != 1):
        raise ValueError("a measurement statement has one path for each image, and one calculator")
    paths = dict.fromkeys(measured, images) if isinstance(images, str) else images
    if missing := [image for image in measured if image not in paths]:
        raise ValueError(f"no path for {missing[0]}")
    calculator = calculators.pop()
    subjects = [(paths[image], {image.algorithm.label: image.hex}) for image in measured]
    named = dict(zip(measured, subjects, strict=True))
    predicate = {
        "attributes": [_attribute(measurement, *named[measurement.image]) for measurement in measurements],
        "producer": {"name": calculator, "uri": _PRODUCER},
    }
    return intoto.make(sorted(subjects), PREDICATE_TYPE, predicate)


def from_statement(statement: intoto.Statement) -> tuple[Measurement, ...]:
    """Return the measurements that ``statement`` carries; how they came to be is not in it.

    Raises:
        Malformed: a field is missing, unknown or of another type, a tuple appears twice, its digest is not
            that of its conditions, or it is about something that is not the statement's subject.
        Unsupported: another predicate, or an attribute that is not a measurement.
    """
    if statement.predicate_type != PREDICATE_TYPE:
        raise Unsupported(_WHAT, at="predicateType", want=PREDICATE_TYPE, got=statement.predicate_type)
    predicate = _fields(statement.predicate, "predicate", ("attributes", "producer"))
    producer = _fields(predicate["producer"], "predicate.producer", ("name", "uri"))
    calculator = _text(producer["name"], "predicate.producer.name")
    listed = predicate["attributes"]
    if not isinstance(listed, list) or not listed:
        raise Malformed(_WHAT, at="predicate.attributes", want="at least one", got=type(listed).__name__)
    found = tuple(
        _measurement(value, f"predicate.attributes[{index}]", statement, calculator)
        for index, value in enumerate(listed)
    )
    if len({(one.image, one.platform, one.shape, one.firmware) for one in found}) != len(found):
        raise Malformed(
            _WHAT, at="predicate.attributes", want="each platform and shape once", got="one of them twice"
        )
    return found


def conditions_digest(conditions: dict[str, Any]) -> Digest:
    """Return the digest that names one tuple: SHA-256 of the RFC 8785 bytes of its conditions.

    Raises:
        Malformed: a number that RFC 8785 can not write.
    """
    import rfc8785

    try:
        return Digest.of(rfc8785.dumps(conditions))
    except rfc8785.CanonicalizationError as error:
        raise Malformed(_WHAT, at="conditions", want="values of RFC 8785", got=str(error)) from None


def _attribute(measurement: Measurement, image_path: str, digests: dict[str, str]) -> dict[str, Any]:
    conditions = {
        "platform": measurement.platform,
        "evidence_kind": measurement.evidence_kind,
        "firmware": str(measurement.firmware),
        "shape": dict(measurement.shape),
        "values": dict(measurement.values),
        "waived": [
            {
                "name": register.name,
                "decision": register.decision,
                "decided_by": register.decided_by,
                "until": register.until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            for register in measurement.waived
        ],
    }
    return {
        "attribute": ATTRIBUTE,
        "target": {"name": image_path, "digest": digests},
        "conditions": conditions,
        "evidence": {
            "name": measurement.calculator,
            "digest": {"sha256": conditions_digest(conditions).hex},
        },
    }


def _measurement(value: Any, at: str, statement: intoto.Statement, calculator: str) -> Measurement:
    attribute = _fields(value, at, ("attribute", "conditions", "evidence", "target"))
    if attribute["attribute"] != ATTRIBUTE:
        raise Unsupported(_WHAT, at=f"{at}.attribute", want=ATTRIBUTE, got=str(attribute["attribute"]))
    target = _fields(attribute["target"], f"{at}.target", ("digest", "name"))
    image = _sha256(target["digest"], f"{at}.target.digest")
    if not any(subject.name == target["name"] and subject.has(image) for subject in statement.subjects):
        raise Malformed(
            _WHAT, at=f"{at}.target", want="a subject of the statement", got=f"{target['name']} {image}"
        )
    conditions = _fields(attribute["conditions"], f"{at}.conditions", _CONDITIONS)
    evidence = _fields(attribute["evidence"], f"{at}.evidence", ("digest", "name"))
    want, got = conditions_digest(conditions), _sha256(evidence["digest"], f"{at}.evidence.digest")
    if want != got:
        raise Malformed(_WHAT, at=f"{at}.evidence.digest", want=f"{want}, of its conditions", got=str(got))
    if evidence["name"] != calculator:
        raise Malformed(_WHAT, at=f"{at}.evidence.name", want=calculator, got=str(evidence["name"]))
    waived = conditions["waived"]
    if not isinstance(waived, list):
        raise Malformed(_WHAT, at=f"{at}.conditions.waived", want="a list", got=type(waived).__name__)
    result = Measurement(
        platform=_text(conditions["platform"], f"{at}.conditions.platform"),
        evidence_kind=_text(conditions["evidence_kind"], f"{at}.conditions.evidence_kind"),
        image=image,
        firmware=Digest.parse(_text(conditions["firmware"], f"{at}.conditions.firmware")),
        shape=_shape(conditions["shape"], f"{at}.conditions.shape"),
        values=_values(conditions["values"], f"{at}.conditions.values"),
        waived=tuple(_waived(one, f"{at}.conditions.waived[{index}]") for index, one in enumerate(waived)),
        events=(),
        calculator=calculator,
    )
    names = [name for name, _ in result.values] + [register.name for register in result.waived]
    if len(set(names)) != len(names):
        raise Malformed(
            _WHAT, at=f"{at}.conditions.waived", want="registers without a value, each once", got="others"
        )
    return result


def _shape(value: Any, at: str) -> tuple[tuple[str, int | str], ...]:
    if not isinstance(value, dict) or not value:
        raise Malformed(_WHAT, at=at, want="an object", got=type(value).__name__)
    for name, item in value.items():
        if type(item) not in (int, str):
            raise Malformed(
                _WHAT, at=f"{at}.{name}", want="a whole number or a text", got=type(item).__name__
            )
    return tuple(sorted(value.items()))


def _values(value: Any, at: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not value:
        raise Malformed(_WHAT, at=at, want="an object of registers", got=type(value).__name__)
    for name, item in value.items():
        if not isinstance(item, str) or not _VALUE.fullmatch(item):
            want = "lower-case hex, or the digest of a container image (sha256:…)"
            raise Malformed(_WHAT, at=f"{at}.{name}", want=want, got=repr(item))
    return tuple(sorted(value.items()))


def _waived(value: Any, at: str) -> WaivedRegister:
    fields = _fields(value, at, _WAIVED)
    until = _text(fields["until"], f"{at}.until")
    try:
        if not _TIME.fullmatch(until):
            raise ValueError
        moment = datetime.strptime(until, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Malformed(
            _WHAT, at=f"{at}.until", want="a time such as 2026-01-31T12:00:00Z", got=until
        ) from None
    return WaivedRegister(
        name=_text(fields["name"], f"{at}.name"),
        decision=_text(fields["decision"], f"{at}.decision"),
        decided_by=_text(fields["decided_by"], f"{at}.decided_by"),
        until=moment,
    )


def _sha256(value: Any, at: str) -> Digest:
    fields = _fields(value, at, ("sha256",))
    return Digest.parse(f"{Algorithm.SHA256.label}:{_text(fields['sha256'], at)}")


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str) or not value:
        raise Malformed(_WHAT, at=at, want="a text", got=repr(value))
    return value


def _fields(value: Any, at: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return ``value`` when it is an object of exactly these fields."""
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at=at, want="an object", got=type(value).__name__)
    if sorted(value) != sorted(names):
        raise Malformed(_WHAT, at=at, want=", ".join(sorted(names)), got=", ".join(sorted(value)))
    return value
