"""Other people's programs read a pushed release: cosign verifies the statement about its OCI manifest."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess

import pytest
from release import registries
from release.test_distribute import _at, _need_debian, _silent
from signing import clients

from tallystick.release import distribute, names

pytestmark = [pytest.mark.net, pytest.mark.slow]


@pytest.fixture
def pushed(world, tmp_path):
    _need_debian()
    with registries.debian(tmp_path) as host:
        moved = distribute.push(world[1], *_at(host), _silent)
        yield world[0], f"{host}/a/b@{moved.manifest}", moved


def verify(world, place, san):
    """Run cosign with the world's trusted root and nothing else to believe."""
    root = world.workdir / "sigstore/trusted_root.json"
    identity = world.identity("ci-builder")
    flags = ("--allow-http-registry", "--new-bundle-format", "--trusted-root", root)
    who = ("--certificate-identity", san or identity.san, "--certificate-oidc-issuer", identity.issuer)
    command = (
        clients.binary("cosign"),
        "verify-attestation",
        *flags,
        *who,
        "--type",
        names.RELEASE_PREDICATE,
        place,
    )
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)


def test_cosign_verifies_the_releases_attestation_in_the_registry(pushed):
    world, place, moved = pushed
    done = verify(world, place, None)
    assert done.returncode == 0, done.stderr
    payload = base64.b64decode(json.loads(done.stdout.splitlines()[-1])["payload"])
    assert moved.manifest.hex in payload.decode()
    assert verify(world, place, "https://somebody.example/else").returncode != 0


def test_oras_lists_what_refers_to_it(pushed):
    oras = shutil.which("oras")
    if oras is None:
        pytest.skip("no oras on this machine")
    done = subprocess.run(
        [oras, "discover", "--plain-http", pushed[1]], capture_output=True, text=True, check=True, timeout=60
    )
    assert "bundle" in done.stdout
