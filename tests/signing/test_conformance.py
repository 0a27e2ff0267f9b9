"""sigstore-conformance at commit a73de497: every shared case comes out as its name says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support_corpus import corpus

from tallystick.core.errors import TallystickError
from tallystick.signing import artifact, managed, root, sigstore
from tallystick.signing.records import Identity
from tallystick.signing.verify import Verifier

pytestmark = pytest.mark.corpus

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SIGNER = Identity(  # whom the conformance project signs its cases as
    san="https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/"
    ".github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main",
    issuer="https://token.actions.githubusercontent.com",
)
# Why a case must fail, where our code for it says so.
REASONS = {
    "bundle-from-wrong-instance_fail": "bundle.log-unknown",
    "bundle-invalid-base64-signature_fail": "malformed",
    "bundle-malformed-json_fail": "malformed",
    "checkpoint-bad-keyhint_fail": "bundle.checkpoint",
    "checkpoint-wrong-roothash_fail": "bundle.checkpoint",
    "dsse-invalid-sig_fail": "bundle.signature",
    "dsse-mismatch-envelope_fail": "bundle.log-entry",
    "inclusion-proof-corrupted-hash_fail": "bundle.log-proof",
    "integrated-time-in-future_fail": "bundle.certificate",
    "intoto-expired-certificate_fail": "bundle.certificate",
    "intoto-tsa-timestamp-outside-cert-validity_fail": "bundle.certificate",
    "invalid-checkpoint-signature_fail": "bundle.checkpoint",
    "invalid-ct-key_fail": "bundle.ct-unknown",
    "managed-key-no-key_fail": "bundle.key",
    "message-digest-mismatch_fail": "bundle.subject",
    "rekor2-dsse-invalid-sig_fail": "bundle.signature",
    "rekor2-no-inclusion-proof_fail": "bundle.log-proof",
    "set-invalid-signature_fail": "bundle.set",
    "signature-mismatch_fail": "bundle.signature",
    "trust-root-tlog-missing-validity-start_fail": "malformed",
    "wrong-hashedrekord-entry_fail": "bundle.log-entry",
}


def cases() -> Path:
    return corpus("conformance/sigstore-conformance") / "test/assets/bundle-verify"


def judge(case: Path) -> str:
    """Return the code with which ``case`` is refused, or the empty text."""
    own = case / "trusted_root.json"
    production = corpus("conformance/trusted_root.production.json")
    trusted = (own if own.exists() else production).read_bytes()
    about = artifact.of(str(case / "artifact" if (case / "artifact").exists() else case.parent / "a.txt"))
    signer = SIGNER
    if (case / "identity").exists():
        san, issuer = ((case / name).read_text().strip() for name in ("identity", "issuer"))
        signer = Identity(san=san, issuer=issuer)
    data = (case / "bundle.sigstore.json").read_bytes()
    try:
        if (case / "key.pub").exists():
            key = (case / "key.pub").read_bytes()
            managed.verify(data, key, artifact=about, root=root.parse(trusted), now=NOW)
        else:
            Verifier(trusted).artifact(data, artifact=about, signer=signer, now=NOW)
    except TallystickError as error:
        return error.code
    return ""


def test_every_case_comes_out_as_its_name_says():
    folders = sorted(path for path in cases().iterdir() if path.is_dir())
    found = {case.name: judge(case) for case in folders}
    assert len(found) > 50
    assert [name for name, code in found.items() if bool(code) != name.endswith("_fail")] == []
    assert {name: found[name] for name in REASONS} == REASONS


def test_keys_alone_do_for_managed_keys():
    about = artifact.of(str(cases() / "a.txt"))
    for name in ("managed-key-happy-path", "managed-key-and-trusted-root"):
        case = cases() / name
        data, key = (case / "bundle.sigstore.json").read_bytes(), (case / "key.pub").read_bytes()
        assert not managed.verify(data, key, artifact=about, root=None, now=NOW).log_checked


@pytest.mark.parametrize("name", ["happy-path-v0.3", "happy-path-intoto-in-dsse-v3", "rekor2-happy-path"])
def test_a_good_case_is_good_for_its_own_signer_alone(name):
    case = cases() / name
    own = case / "trusted_root.json"
    production = corpus("conformance/trusted_root.production.json")
    verifier = Verifier((own if own.exists() else production).read_bytes())
    about = artifact.of(str(cases() / "a.txt"))
    data = (case / "bundle.sigstore.json").read_bytes()
    verifier.artifact(data, artifact=about, signer=SIGNER, now=NOW)
    for other in (
        Identity(san=SIGNER.san.removesuffix("main"), issuer=SIGNER.issuer),
        Identity(san=SIGNER.san, issuer="https://accounts.google.com"),
    ):
        with pytest.raises(TallystickError) as caught:
            verifier.artifact(data, artifact=about, signer=other, now=NOW)
        assert caught.value.code == "bundle.identity"


def test_real_provenance_by_github_is_genuine_and_its_signer_decides():
    """slsa-verifier's testdata: the wrong signer's bundle is as genuine as the right one's."""
    folder = corpus("conformance/slsa-verifier") / "cli/slsa-verifier/testdata/bcr"
    verifier = Verifier((corpus("conformance/trusted_root.production.json")).read_bytes())
    for path in sorted(folder.glob("MODULE*.jsonl")):
        data = path.read_bytes()
        signer = sigstore.signer_of(data)
        about = artifact.Artifact(sha256=_subject(data))
        verifier.artifact(data, artifact=about, signer=signer, now=NOW)


def _subject(data: bytes):
    from tallystick.core.digests import Digest
    from tallystick.formats import intoto, sigstore_bundle

    statement = intoto.parse(sigstore_bundle.parse(data).content.payload)
    return Digest.parse("sha256:" + dict(statement.subjects[0].digests)["sha256"])


def test_the_canonical_json_pairs():
    """cyberphone/json-canonicalization, testdata: what our statements and bundles are spelled with."""
    import rfc8785

    folder = corpus("conformance/jcs") / "testdata"
    for path in sorted((folder / "input").glob("*.json")):
        want = (folder / "output" / path.name).read_bytes().rstrip(b"\n")
        assert rfc8785.dumps(json.loads(path.read_bytes())) == want, path.name
