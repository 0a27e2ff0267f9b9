"""The half of ``tally measure diff`` that holds a release against evidence of one machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tallystick.cli.measure_diff import Predictor, init_data_of
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, TallystickError, Unsupported
from tallystick.core.files import read_file
from tallystick.measure.causes import Cause, Change, Unexplained, differing
from tallystick.measure.records import Measurement

_MAX_EVIDENCE_BYTES = 64 << 20
Found = tuple[tuple[Cause, ...], tuple[Unexplained, ...]]
Answer = tuple[Measurement, Found]  # the tuple that is nearest, and why the evidence is not its
_NO_RULE = "no rule searches this platform's launches"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What the machine may have been started with, as far as whoever asks has it."""

    firmware: tuple[bytes, ...]
    init_data: tuple[Digest, ...]
    log: bytes | None

    @classmethod
    def read(cls, firmware: Sequence[Path], init_data: Sequence[Path], log: Path | None) -> Candidates:
        """Return the files' contents."""
        return cls(
            firmware=tuple(read_file(path, "firmware", max_bytes=_MAX_EVIDENCE_BYTES) for path in firmware),
            init_data=tuple(Digest.of(read_file(path, "init-data", max_bytes=1 << 20)) for path in init_data),
            log=None if log is None else read_file(log, "event log", max_bytes=_MAX_EVIDENCE_BYTES),
        )


def explain(release: Path, evidence: Path, kind: str, candidates: Candidates) -> Change:
    """Return why the evidence's values are not the release's nearest tuple's.

    Raises:
        Misuse: the release has no tuple for evidence of this kind.
        Malformed, Unsupported: the evidence is of none of the kinds that the release is measured for.
    """
    from tallystick.cli.diff import side

    measured = side(release).measurements
    data = read_file(evidence, "evidence", max_bytes=_MAX_EVIDENCE_BYTES)
    named = kind or _kind(data, tuple(dict.fromkeys(one.evidence_kind for one in measured)))
    tuples = [one for one in measured if one.evidence_kind == named]
    if not tuples:
        have = ", ".join(sorted({one.evidence_kind for one in measured}))
        raise Misuse(f"{release}: no tuple for {named}; it is measured for {have}", code="measure.diff.kind")
    if named not in _VALUES:
        raise Unsupported("evidence", at="kind", want="one of " + ", ".join(_VALUES), got=named)
    values = _VALUES[named](data)
    fewest = min(len(_differing(one, values)) for one in tuples)
    near = [one for one in tuples if len(_differing(one, values)) == fewest]
    if not fewest:
        return _change(near[0], (), ((), ()))
    alike = [one for one in near if (one.platform, one.image, one.firmware) == _made(near[0])]
    rule = _RULES.get(near[0].platform)
    if rule is None:
        changed = _differing(near[0], values)
        return _change(near[0], changed, ((), _unexplained(tuple(name for name, _, _ in changed), _NO_RULE)))
    nearest, found = rule(release, alike, data, candidates)
    return _change(nearest, _differing(nearest, values), found)


def _made(one: Measurement) -> tuple[str, Digest, Digest]:
    return one.platform, one.image, one.firmware


def _change(one: Measurement, changed: tuple[tuple[str, str, str], ...], found: Found) -> Change:
    return Change(
        platform=one.platform,
        before=one.shape,
        after=one.shape,
        values=changed,
        causes=found[0],
        unexplained=found[1],
    )


def _kind(data: bytes, kinds: Sequence[str]) -> str:
    """Return the one kind of the release's that ``data`` parses as."""
    fits = []
    for kind in kinds:
        try:
            _VALUES[kind](data)
        except (KeyError, TallystickError):
            continue
        fits.append(kind)
    if len(fits) != 1:
        raise Malformed(
            "evidence", at="kind", want="one of " + ", ".join(kinds), got=", ".join(fits) or "none"
        )
    return fits[0]


def _differing(one: Measurement, values: dict[str, str]) -> tuple[tuple[str, str, str], ...]:
    """Return which of the tuple's values the evidence does not show; what it does not carry is not compared."""
    return differing({name: value for name, value in one.values if name in values},
                     {name: values[name] for name, _ in one.values if name in values})  # fmt: skip


def _unexplained(names: tuple[str, ...], reason: str) -> tuple[Unexplained, ...]:
    return (Unexplained(values=names, reason=reason),)


def _tpm_values(data: bytes) -> dict[str, str]:
    from tallystick.evidence import tpm_forms

    return {f"pcr{number:02}": value.hex() for number, value in tpm_forms.parse(data).pcrs}


def _snp_values(data: bytes) -> dict[str, str]:
    from tallystick.formats import snp_report

    report = snp_report.parse(data)
    return {"measurement": report.measurement.hex(), "init_data": report.host_data.hex()}


def _tdx_values(data: bytes) -> dict[str, str]:
    from tallystick.formats import dcap_quote

    body = dcap_quote.parse(data).body
    if not isinstance(body, dcap_quote.TdReport):
        raise Unsupported("quote", at="body", want="a TD's", got="an SGX enclave's")
    values = {"mr_td": body.mr_td, "mr_config_id": body.mr_config_id}
    values |= {f"rtmr_{number}": value for number, value in enumerate(body.rtmr)}
    return {f"quote.body.{name}": value.hex() for name, value in values.items()}


def _nitro_values(data: bytes) -> dict[str, str]:
    from tallystick import evidence

    shown = evidence.show("nitro", data)
    return {f"pcr{number}": str(value) for number, value in shown["pcrs"].items()}


_VALUES: dict[str, Callable[[bytes], dict[str, str]]] = {
    "tpm-quote": _tpm_values,
    "snp-report": _snp_values,
    "tdx-quote": _tdx_values,
    "nitro": _nitro_values,
}


def _file(release: Path, digest: Digest, what: str) -> bytes:
    data = Predictor((release,)).file(digest)
    if data is None:
        raise Misuse(
            f"{release}: there is no {what} {digest}, which its tuple names", code="release.file.missing"
        )
    return data


def _tpm(release: Path, near: Sequence[Measurement], data: bytes, candidates: Candidates) -> Answer:
    from tallystick.evidence import tpm_forms
    from tallystick.formats import eventlog, uki
    from tallystick.measure import qemu, why_tpm
    from tallystick.measure.shapes import LaunchShape
    from tallystick.measure.uki import image_events

    given = tpm_forms.parse(data)
    log = candidates.log or given.event_log
    seen = why_tpm.Seen(
        pcrs=dict(given.pcrs),
        log=None if log is None else eventlog.parse(log),
        init_data=candidates.init_data,
    )
    image = image_events(uki.parse(_file(release, near[0].image, "image")))
    firmware = qemu.MeasuredFirmware.of(_file(release, near[0].firmware, "firmware"))
    found = []
    for one in near:
        expected = why_tpm.Expected(
            image=image,
            firmware=firmware,
            machine=qemu.machine(LaunchShape(platform=one.platform, values=one.shape)),
            init_data=init_data_of(release),
        )
        found.append((one, why_tpm.explain(expected, seen)))
    return min(found, key=lambda pair: (len(pair[1][1]), len(pair[1][0])))


def _snp(release: Path, near: Sequence[Measurement], data: bytes, candidates: Candidates) -> Answer:
    from tallystick.formats import ovmf
    from tallystick.measure import snp, snp_boot, why_snp
    from tallystick.measure.shapes import LaunchShape

    seen, one = _snp_values(data), near[0]
    found: Found = ((), ())
    if seen["measurement"] != dict(one.values)["measurement"]:
        image = _file(release, one.image, "image")
        files = (_file(release, one.firmware, "firmware"), *candidates.firmware)
        expected = why_snp.Expected(
            firmware=one.firmware,
            images={Digest.of(file): snp.launch_image(ovmf.parse(file)) for file in files},
            hashes=snp.KernelHashes.of(image, b"", ""),
            shapes=tuple(
                snp_boot.machine(LaunchShape(platform=other.platform, values=other.shape)) for other in near
            ),
        )
        number, causes, rest = why_snp.explain(expected, bytes.fromhex(seen["measurement"]))
        one, found = near[number], (causes, rest)
    return one, _joined(found, _configured("init_data", 32, release, one, seen, candidates))


def _configured(
    name: str, size: int, release: Path, one: Measurement, seen: dict[str, str], candidates: Candidates
) -> Found:
    """Explain the field that init-data decides: none was given, or one that is at hand."""
    from tallystick.measure.causes import How, Where, short
    from tallystick.measure.hostdata import fitted

    if seen.get(name) in (None, dict(one.values).get(name)):
        return (), ()
    for candidate in (None, *candidates.init_data):
        if seen[name] == fitted(b"" if candidate is None else candidate.value, size).hex():
            before = short(init_data_of(release))
            cause = Cause(
                where=Where.HOST, kind="init-data", name="init-data", before=before, after=short(candidate),
                moves=(name,), how=How.SEARCH,
            )  # fmt: skip
            return (cause,), ()
    return (), _unexplained((name,), "it is of no init-data that is at hand; --initdata gives more")


def _joined(*parts: Found) -> Found:
    return tuple(c for causes, _ in parts for c in causes), tuple(u for _, rest in parts for u in rest)


def _tdx(release: Path, near: Sequence[Measurement], data: bytes, candidates: Candidates) -> Answer:
    from tallystick.formats import eventlog, ovmf, uki
    from tallystick.measure import tdx_boot, why_tdx

    one = near[0]
    seen, want = _tdx_values(data), dict(one.values)
    files = (_file(release, one.firmware, "firmware"), *candidates.firmware)
    expected = why_tdx.Expected(
        firmware=one.firmware,
        files={Digest.of(file): ovmf.parse(file) for file in files},
        page_order=str(dict(one.shape).get("page_order", "")),
        events=tdx_boot.boot_events(uki.parse(_file(release, one.image, "image"))),
    )
    configured = "quote.body.mr_config_id"
    differ = {
        name: bytes.fromhex(value)
        for name, value in seen.items()
        if want.get(name, value) != value and name != configured
    }
    log = None if candidates.log is None else eventlog.parse(candidates.log)
    found = why_tdx.explain(expected, differ, log)
    return one, _joined(found, _configured(configured, 48, release, one, seen, candidates))


def _nitro(release: Path, near: Sequence[Measurement], data: bytes, candidates: Candidates) -> Answer:
    from tallystick.measure import why_nitro

    one = near[0]
    return one, why_nitro.explain(dict(one.values), _nitro_values(data))


_RULES: dict[str, Callable[[Path, Sequence[Measurement], bytes, Candidates], Answer]] = {
    "qemu-vtpm": _tpm,
    "amd-sev-snp": _snp,
    "intel-tdx": _tdx,
    "aws-nitro": _nitro,
}
