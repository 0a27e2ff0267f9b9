"""The GitLab component, executed: the shell of its jobs with the variables that a runner sets."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import support_tls
import yaml
from ci import gitlab
from ci.test_github import ROOT, TALLY
from release import registries
from signing.boxes import Box
from signing.sigstore_server import serving
from signing.test_keyless import DAVE, Keyless

from tallystick.signing import sigstore

TEMPLATE = ROOT / "templates/image.yml"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TALLY.exists(), reason="the jobs use the project's own .venv: .ci/setup test"),
]


class Project:
    """A project that uses the component, on a runner that has fetched and installed Tallystick once before."""

    def __init__(self, folder: Path, token: str, config: bytes, host: str, certificate: Path) -> None:
        git = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        self.folder = folder / "project"
        (self.folder / ".tallystick").mkdir(parents=True)
        (self.folder / ".tallystick/.venv").symlink_to(ROOT / ".venv")
        (self.folder / "sigstore.json").write_bytes(config)
        inputs = {
            "tallystick": f"file://{ROOT}",
            "commit": git.stdout.strip(),
            "recipe": "build/confidential-inference.yaml",
            "place": f"oci://{host}/team/image",
            "trust-config": "sigstore.json",
        }
        self._document = yaml.safe_load(gitlab.filled(TEMPLATE, inputs))
        self._variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "REQUESTS_CA_BUNDLE": str(certificate),
            "CI": "true",
            "GITLAB_CI": "true",
            "CI_COMMIT_REF_SLUG": "main",
            "CI_PROJECT_DIR": str(self.folder),
            "CI_REGISTRY": host,
            "CI_REGISTRY_PASSWORD": "the-password",
            "CI_REGISTRY_USER": "gitlab-ci-token",
            "SIGSTORE_ID_TOKEN": token,
        }

    def job(self, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return gitlab.execute(self._document, name, self.folder, self._variables | variables)


@pytest.fixture
def project(tmp_path):
    keyless, tls = Keyless(Box.make(tmp_path / "box")), support_tls.certificate(tmp_path)
    with (
        serving(Box(tmp_path / "box")) as keyless.url,
        registries.debian(tmp_path, (tls.chain, tls.key)) as host,
    ):
        yield Project(tmp_path, keyless.token(), keyless.config, host, tls.chain)


def test_publish_and_compare(project):
    release = os.environ.get("TALLY_RELEASE")
    if release is None:
        pytest.skip("set TALLY_RELEASE to a release that `tally build` made, as `make test` does")
    shutil.copytree(release, project.folder / "release", ignore=shutil.ignore_patterns("bundles", "links"))
    published = project.job("tally-publish")
    assert published.returncode == 0, published.stdout + published.stderr
    bundle = project.folder / "release/bundles/index.sigstore.json"
    assert sigstore.signer_of(bundle.read_bytes()) == DAVE
    assert "the-password" not in published.stdout + published.stderr
    config = project.folder / ".docker/config.json"
    assert config.stat().st_mode & 0o077 == 0

    compared = project.job("tally-compare")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert (project.folder / "diff.md").read_text().startswith("### No measurement changed")


def test_what_fails_ends_the_job(project):
    """There is no release: nothing is pushed, and the job fails with the exit code of `tally`."""
    failed = project.job("tally-publish")
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert project.job("tally-compare").returncode != 0
