"""Other people's clients: they sign against the front of the embedded Sigstore, and judge its bundles as we do."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from signing import clients
from signing.boxes import (
    ARTIFACT,
    BUILDER,
    NOW,
    PAYLOAD,
    PREDICATE,
    SUBJECT,
    Box,
    edited,
    flipped,
    rfc3339,
    spelled,
)
from signing.sigstore_server import now

from tallystick.core import jsondoc
from tallystick.core.errors import TallystickError
from tallystick.signing import people
from tallystick.signing.embedded import instance, proofs
from tallystick.signing.embedded.front import Front
from tallystick.signing.records import Identity
from tallystick.signing.verify import Verifier

pytestmark = [pytest.mark.net, pytest.mark.slow]
SCRIPT = Path(__file__).with_name("clients.cjs")


class Served:
    """A box behind its front, with the files that clients take."""

    def __init__(self, box: Box, url: str, front: Front, folder: Path) -> None:
        self.box, self.url, self.front, self.folder = box, url, front, folder
        path = box.workdir / "sigstore" / "client_trust_config.json"
        config = instance.served_at(jsondoc.loads(path.read_bytes(), "config"), url)
        for name, value in (
            ("ctc", config),
            ("root", config["trustedRoot"]),
            ("signing", config["signingConfig"]),
        ):
            (folder / f"{name}.json").write_bytes(jsondoc.dumps(value))
        (folder / "artifact").write_bytes(b"the artifact")
        (folder / "statement.json").write_bytes(PAYLOAD)

    def token(self, name: str = "ci-builder") -> Path:
        person = people.load(self.box.workdir, name)
        nonce = json.loads(self.front.answer("GET", "/tally/v0/challenge", {}, b"", now()).body)["nonce"]
        proof = proofs.prove(person.identity, person.key, nonce, proofs.FOR_A_TOKEN, now())
        body = json.dumps({"proof": proof}).encode()
        answer = self.front.answer("POST", "/tally/v0/token", {}, body, now())
        path = self.folder / "token"
        path.write_text(json.loads(answer.body)["id_token"])
        return path


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from tallystick.signing.embedded import http

    folder = tmp_path_factory.mktemp("clients")
    box = Box.make(folder / "box")
    front = Front(box.instance)
    with http.serving(front, "127.0.0.1", 0, now) as url:
        yield Served(box, url, front, folder)


def cosign_signs_a_statement(s: Served, out: Path) -> None:
    clients.run(
        clients.binary("cosign"), "attest-blob", "--yes", "--statement", s.folder / "statement.json",
        "--identity-token", s.token(), "--signing-config", s.folder / "signing.json",
        "--trusted-root", s.folder / "root.json", "--bundle", out,
    )  # fmt: skip


def cosign_signs_a_file(s: Served, out: Path) -> None:
    clients.run(
        clients.binary("cosign"), "sign-blob", "--yes", "--identity-token", s.token(),
        "--signing-config", s.folder / "signing.json", "--trusted-root", s.folder / "root.json",
        "--bundle", out, s.folder / "artifact",
    )  # fmt: skip


def sigstore_python_signs_a_file(s: Served, out: Path) -> None:
    clients.run(
        sys.executable, "-m", "sigstore", "--trust-config", s.folder / "ctc.json", "sign",
        "--identity-token", s.token().read_text(), "--bundle", out, s.folder / "artifact",
    )  # fmt: skip


def sigstore_js_signs_a_statement(s: Served, out: Path) -> None:
    modules = clients.node_modules()
    clients.run("node", SCRIPT, "sign", s.url, s.token(), s.folder / "statement.json", out, cwd=modules)


SIGNERS = [
    cosign_signs_a_statement,
    cosign_signs_a_file,
    sigstore_python_signs_a_file,
    sigstore_js_signs_a_statement,
]


@pytest.mark.parametrize("signs", SIGNERS)
def test_stock_clients_sign_against_the_front_and_we_verify_it(served, signs, tmp_path):
    signs(served, tmp_path / "bundle.json")
    data = (tmp_path / "bundle.json").read_bytes()
    found = Verifier(served.box.root).artifact(data, artifact=ARTIFACT, signer=BUILDER, now=now())
    assert found.signer == BUILDER


# The cross-verifier matrix: who says what of good and tampered bundles


def entry(document):
    return document["verificationMaterial"]["tlogEntries"][0]


def proof(document):
    return entry(document)["inclusionProof"]


def _set(target, name, change):
    target[name] = change(target[name])


TAMPERED = {
    "payload": lambda d: _set(d["dsseEnvelope"], "payload", flipped),
    "payload type": lambda d: d["dsseEnvelope"].update(payloadType="text/plain"),
    "signature": lambda d: _set(d["dsseEnvelope"]["signatures"][0], "sig", lambda s: flipped(s, -1)),
    "promise": lambda d: _set(entry(d)["inclusionPromise"], "signedEntryTimestamp", lambda s: flipped(s, -1)),
    "time of the entry": lambda d: entry(d).update(integratedTime=str(int(entry(d)["integratedTime"]) + 1)),
    "proof hash": lambda d: _set(proof(d)["hashes"], 0, flipped),
    "proof root": lambda d: _set(proof(d), "rootHash", flipped),
    "checkpoint": lambda d: _set(proof(d)["checkpoint"], "envelope", lambda s: s.replace(" - ", " - 1", 1)),
    "logged body": lambda d: _set(entry(d), "canonicalizedBody", lambda s: flipped(s, 30)),
    "log id": lambda d: _set(entry(d)["logId"], "keyId", flipped),
    "certificate": lambda d: _set(d["verificationMaterial"]["certificate"], "rawBytes", lambda s: flipped(s, -1)),
}  # fmt: skip
AGREE_NOT = {("proof root", "sigstore-js")}  # it recomputes the root and never reads the field
CLOSED = ("certificateAuthorities", "tlogs", "ctlogs")


def closed(root: bytes, part: str) -> bytes:
    """The root with the window of one part closed before NOW."""
    document = json.loads(root)
    one = document[part][0] if part == "certificateAuthorities" else document[part][0]["publicKey"]
    one["validFor"] = {"start": "2020-01-01T00:00:00Z", "end": rfc3339(NOW - timedelta(days=1))}
    return json.dumps(document).encode()


def cases(box: Box) -> dict[str, tuple[bytes, bytes]]:
    """Name -> (bundle, trusted root); those that begin with "good" are."""
    good = box.sign()
    later = box.sign()  # with a proof of more hashes
    swapped = edited(good, lambda d: d["verificationMaterial"].update(tlogEntries=[entry(json.loads(later))]))
    other = Box.make(box.workdir.parent / "other")
    stranger = Identity(san="https://stranger.example/builder", issuer=BUILDER.issuer)
    found = {"good": (good, box.root), "good, later": (later, box.root)}
    found |= {name: (edited(later, change), box.root) for name, change in TAMPERED.items()}
    found |= {f"{part} closed": (good, closed(box.root, part)) for part in CLOSED}
    found["entry of another bundle"] = (swapped, box.root)
    found["another Sigstore"] = (other.sign(), box.root)
    found["another signer"] = (spelled(box.forge(identity=stranger)), box.root)
    return found


def ours(folder: Path, bundle: Path, root: Path) -> bool:
    try:
        Verifier(root.read_bytes()).statement(
            bundle.read_bytes(), signers=(BUILDER,), predicate_type=PREDICATE, now=NOW + timedelta(minutes=5)
        )
    except TallystickError:
        return False
    return True


def cosign(folder: Path, bundle: Path, root: Path) -> bool:
    done = clients.run(
        clients.binary("cosign"), "verify-blob-attestation", "--bundle", bundle, "--trusted-root", root,
        "--certificate-identity", BUILDER.san, "--certificate-oidc-issuer", BUILDER.issuer,
        "--type", PREDICATE, folder / "artifact", ok=False,
    )  # fmt: skip
    return done.returncode == 0


def sigstore_go(folder: Path, bundle: Path, root: Path) -> bool:
    done = clients.run(
        clients.binary("sigstore-go-verification"), "-artifact-digest", SUBJECT.hex, "-expectedIssuer", BUILDER.issuer,
        "-expectedSAN", BUILDER.san, "-trustedrootJSONpath", root, bundle, ok=False,
    )  # fmt: skip
    return done.returncode == 0


def sigstore_js(folder: Path, bundle: Path, root: Path) -> bool:
    done = clients.run(
        "node", SCRIPT, "verify", root, BUILDER.san, BUILDER.issuer, bundle, cwd=clients.node_modules()
    )
    return done.stdout.strip() == "ok"


VERIFIERS = {"ours": ours, "cosign": cosign, "sigstore-go": sigstore_go, "sigstore-js": sigstore_js}


@pytest.mark.parametrize("name", VERIFIERS)
def test_every_verifier_takes_the_good_and_refuses_the_tampered(served, name, tmp_path):
    wrong = []
    (tmp_path / "artifact").write_bytes(b"the artifact")
    for case, (bundle, root) in cases(Box.make(tmp_path / "matrix")).items():
        (tmp_path / "bundle.json").write_bytes(bundle)
        (tmp_path / "root.json").write_bytes(root)
        said = VERIFIERS[name](tmp_path, tmp_path / "bundle.json", tmp_path / "root.json")
        if said != (case.startswith("good") or (case, name) in AGREE_NOT):
            wrong.append((case, said))
    assert wrong == []
