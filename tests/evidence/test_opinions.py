"""Second opinions of code that others wrote: Google's verifiers for SNP and TDX, and tpm2-tools.

The Go program in tests/foreign/opinion is built when the test runs, from modules whose sums are pinned.
"""

from __future__ import annotations

import base64
import json
import random
import subprocess
from datetime import UTC, datetime

import pytest
from support_corpus import ROOT, corpus
from support_eventlog import ACTION, log
from support_go import built, tool
from support_tpm import ECDSA, RSASSA
from support_tpm_evidence import EVENTS, NONCE, NOW, made

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.evidence import quote, snp_report, tpm_forms, tpm_quote
from tallystick.formats import eventlog

ROOTS = ROOT / "pipeline" / "tallystick" / "evidence" / "roots"
AT = datetime(2025, 6, 20, tzinfo=UTC)
FLIPS = 24


@pytest.fixture(scope="module")
def opinion(tmp_path_factory):
    """Build the Go program; give a function that returns what it says."""
    program = built("opinion", tmp_path_factory.mktemp("opinion"))

    def ask(*arguments, at=AT):
        moment = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        run = subprocess.run(
            [program, *map(str, arguments), moment], capture_output=True, check=True, text=True
        )
        said = run.stdout.strip().splitlines()[-1]
        assert said == "ok" or said.startswith("refused:")
        return said == "ok"

    return ask


def ours(verify, *arguments, **options):
    """Return whether evidence is genuine to us."""
    try:
        verify(*arguments, nonce=None, **options)
    except (Malformed, Unsupported, NotGenuine):
        return False
    return True


def damaged(data, end, seed):
    """Give copies of ``data`` with one byte changed below ``end``."""
    chance = random.Random(seed)
    for _ in range(FLIPS):
        copy, place = bytearray(data), chance.randrange(end)
        copy[place] ^= 1 << chance.randrange(8)
        yield place, bytes(copy)


SNP = [
    ("gosevguest_milan_v2_DEBUG.report.bin", "gosevguest_milan_v2_DEBUG.vcek.der"),
    ("trustee_milan_v2.report.bin", "trustee_milan_v2.vcek.der"),
    ("trustee_vlek_milan_v3_vmpl1.report.bin", "trustee_vlek_milan_v3_vmpl1.vlek.der"),
]


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.corpus
@pytest.mark.parametrize(("report", "key"), SNP)
def test_go_sev_guest_agrees(opinion, tmp_path, report, key):
    folder = corpus("evidence/snp/reports")
    data, vek = (folder / report).read_bytes(), (folder / key).read_bytes()
    assert opinion("snp", folder / report, folder / key, "Milan", ROOTS)
    assert ours(snp_report.verify, data, [vek], at=AT)
    for place, copy in damaged(data, 0x2A0 + 144, report):
        (tmp_path / "copy").write_bytes(copy)
        theirs = opinion("snp", tmp_path / "copy", folder / key, "Milan", ROOTS)
        assert (place, theirs, ours(snp_report.verify, copy, [vek], at=AT)) == (place, False, False)
    late = datetime(2040, 1, 1, tzinfo=UTC)
    assert not opinion("snp", folder / report, folder / key, "Milan", ROOTS, at=late)
    assert not ours(snp_report.verify, data, [vek], at=late)


# quote, collateral, day, whether go-tdx-guest can read the collateral: it compares FMSPCs letter by letter
TDX = [
    ("tdx/tdx_quote", "tdx/tdx_quote_collateral.json", (2025, 6, 20), False),
    (
        "tdx/trustee_tdx_quote_4.dat",
        "tdx/composite_collateral/gotdx-50806f000000.json",
        (2023, 6, 20),
        True,
    ),
    (
        "azure/tdx/td-quote.bin",
        "tdx/composite_collateral/automata-1025-00806F050000.json",
        (2025, 10, 20),
        False,
    ),
]


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.corpus
@pytest.mark.parametrize(("path", "collateral", "day", "whole"), TDX)
def test_go_tdx_guest_agrees(opinion, tmp_path, path, collateral, day, whole):
    """It reads quotes of version 4; Azure's TDs too, which dcap-qvl refuses."""
    at = datetime(*day, tzinfo=UTC)
    file, endorsement = corpus(f"evidence/{path}"), corpus(f"evidence/{collateral}")
    data, files = file.read_bytes(), [endorsement.read_bytes()]
    theirs = endorsement if whole else "-"
    assert opinion("tdx", file, theirs, at=at)
    assert ours(lambda *a, **o: quote.verify("tdx-quote", *a, **o), data, files, at=at)
    for place, copy in damaged(data, 632 + 4 + 128 + 384, path):
        (tmp_path / "copy").write_bytes(copy)
        mine = ours(lambda *a, **o: quote.verify("tdx-quote", *a, **o), copy, files, at=at)
        assert (place, opinion("tdx", tmp_path / "copy", theirs, at=at), mine) == (place, False, False)
    if whole:
        late = datetime(2023, 9, 1, tzinfo=UTC)
        assert not opinion("tdx", file, theirs, at=late)


def checkquote(folder, evidence, nonce):
    """Return whether tpm2_checkquote accepts a quote."""
    command = [tool("tpm2_checkquote"), "-g", "sha256", "-q", nonce.hex()]
    for flag, name in (("-u", "ak.pem"), ("-m", "message"), ("-s", "signature")):
        command += [flag, str(folder / name)]
    (folder / "message").write_bytes(evidence.message)
    (folder / "signature").write_bytes(evidence.signature)
    pem = base64.encodebytes(evidence.key_spki).decode()
    (folder / "ak.pem").write_text(f"-----BEGIN PUBLIC KEY-----\n{pem}-----END PUBLIC KEY-----\n")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("name", "scheme"), [("rsa", RSASSA), ("p256 ak", ECDSA)])
def test_tpm2_checkquote_agrees(tmp_path, name, scheme):
    data = made(key_name=name, scheme=scheme)
    evidence = tpm_forms.parse(data)
    file = json.loads(data)["ak_public"]
    believed = b"-----BEGIN PUBLIC KEY-----\n" + file.encode() + b"\n-----END PUBLIC KEY-----\n"
    assert checkquote(tmp_path, evidence, NONCE)
    assert tpm_quote.verify(data, [believed], nonce=NONCE, at=NOW).kind == "tpm-quote"
    assert not checkquote(tmp_path, evidence, NONCE[:-1])
    for place, message in damaged(evidence.message, len(evidence.message), name):
        changed = json.loads(data)
        changed["tpm_quote"]["message"] = base64.b64encode(message).decode()
        copy = json.dumps(changed).encode()
        assert not ours(lambda *a, **o: tpm_quote.verify(*a, **o), copy, [believed], at=NOW), place
        try:
            assert not checkquote(tmp_path, tpm_forms.parse(copy), NONCE), place
        except Malformed:
            continue


def banks_of_tpm2(path):
    """Return {bank: {register: hex}} as tpm2_eventlog replays a file."""
    said = subprocess.run([tool("tpm2_eventlog"), path], capture_output=True, check=True, text=True).stdout
    found, bank = {}, None
    for line in said[said.rindex("\npcrs:") :].splitlines()[2:]:
        name, _, value = (part.strip() for part in line.partition(":"))
        if value:
            found[bank][int(name)] = value.removeprefix("0x")
        else:
            bank = name
            found[bank] = {}
    return found


def our_banks(data):
    parsed = eventlog.parse(data)
    return {
        bank: {number: value.hex() for number, value in eventlog.replay(parsed, bank).items()}
        for bank in parsed.banks
        if bank in eventlog.REPLAYED
    }


def test_tpm2_eventlog_replays_the_same(tmp_path):
    data = log([*EVENTS, (7, ACTION, b"more")], ("sha1", "sha256", "sha384"))
    (tmp_path / "log").write_bytes(data)
    assert banks_of_tpm2(tmp_path / "log") == our_banks(data)


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["debian-10.bin", "ubuntu-2104-no-dbx.bin", "ubuntu-1804-amd-sev.bin"])
def test_tpm2_eventlog_replays_real_logs_the_same(name):
    path = corpus(f"evidence/tpm/gce/eventlogs/{name}")
    assert banks_of_tpm2(path) == our_banks(path.read_bytes())
