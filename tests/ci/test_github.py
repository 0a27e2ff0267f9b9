"""The reusable workflow, executed: every line of its shell, with the environment and the token that a runner gives."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import support_http
import support_tls
from ci.github import ROOT, Failed, Run
from release import registries
from signing.boxes import Box
from signing.sigstore_server import serving
from signing.test_keyless import DAVE, ISSUER, Keyless

from tallystick.signing import sigstore

IMAGE = ROOT / ".github/workflows/image.yml"
WORKFLOW = DAVE.san.removeprefix("https://github.example/")
TALLY = ROOT / ".venv/bin/tally"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.nix,
    pytest.mark.skipif(
        not TALLY.exists(), reason="the action puts the project's own .venv on the path: .ci/setup test"
    ),
]

GH = """#!/bin/sh
printf '%s\\n' "$@" >> "$TEST_FOLDER/gh"
while [ $# -gt 1 ]; do [ "$1" = --body-file ] && cat "$2" > "$TEST_FOLDER/body"; shift; done
"""
DOCKER = """#!/bin/sh
read -r password
mkdir -p "$HOME/.docker"
auth="$(printf '%s:%s' "$4" "$password" | base64 -w0)"
printf '{"auths":{"%s":{"auth":"%s"}}}' "$2" "$auth" > "$HOME/.docker/config.json"
"""


@contextmanager
def oidc(token: str) -> Iterator[str]:
    """Serve ``token`` as GitHub does to a job with id-token: write."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = (
                self.headers["Authorization"] == "bearer the-request-token"
                and "audience=sigstore" in self.path
            )
            body = json.dumps({"value": token}).encode() if asked else b"{}"
            self.send_response(200 if asked else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with support_http.serving(Handler) as url:
        yield f"{url}/token?x=1"


def tally(*arguments: object, home: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run `tally` as a person does on their own machine."""
    return subprocess.run(
        [TALLY, *map(str, arguments)],
        env={**os.environ, "TALLY_HOME": str(home), **changed},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def checkout(tmp_path):
    """The caller's repository: this one, with the trust file and the channels of a team beside it."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in names:
        if name.partition("/")[0] in ("build", "nix", "pipeline"):
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "source" / name)
    return tmp_path / "source"


@pytest.fixture
def team(tmp_path, checkout):
    """A team's work directory, which believes the workflow, and whose public part lies in the repository."""
    home = tmp_path / "home"
    tally("init", "--workdir", home, home=home)
    trust = json.loads((home / "trust.json").read_bytes())
    identity = {"san": DAVE.san, "issuer": ISSUER}
    trust["builders"] = [{"identity": identity, "builder_id": f"https://github.com/{WORKFLOW}"}]
    (home / "trust.json").write_text(json.dumps(trust))
    (checkout / "tallystick").mkdir()
    shutil.copy(home / "trust.json", checkout / "tallystick")
    shutil.copytree(
        home / "channels", checkout / "tallystick/channels", ignore=shutil.ignore_patterns("*.key")
    )
    return home


@pytest.fixture
def runner(tmp_path, checkout, team):
    """A run of the workflow, up to its first job; what people have around it is on this machine."""
    from tallystick.build import seeds
    from tallystick.cli.build import state_folder

    for name, text in (("gh", GH), ("docker", DOCKER)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    keyless, tls = Keyless(Box(team)), support_tls.certificate(tmp_path)
    with (
        serving(Box(team)) as keyless.url,
        oidc(keyless.token()) as url,
        registries.debian(tmp_path, (tls.chain, tls.key)) as host,
    ):
        (checkout / "sigstore.json").write_bytes(keyless.config)
        yield Run(
            folder=tmp_path / "run",
            repository=checkout,
            inputs={
                "recipe": "build/confidential-inference.yaml",
                "place": f"oci://{host}/team/image",
                "channel": "staging",
                "trust-config": "sigstore.json",
            },
            secrets={
                "rebuilder-key": (team / "people/rebuilder/release.key").read_text(),
                "rebuilder-passphrase": "",
            },
            event={
                "event_name": "push",
                "repository": "org/repo",
                "event": {"pull_request": {"number": "7", "head": {"repo": {"full_name": "org/repo"}}}},
            },
            environment={
                "PATH": os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]]),
                "TALLY_STATE": str(state_folder(None)),
                "XDG_CACHE_HOME": str(seeds.cache_folder().parents[1]),  # nothing is fetched twice
                "TEST_WORKFLOW_REF": WORKFLOW,
                "TEST_FOLDER": str(tmp_path),
                "REQUESTS_CA_BUNDLE": str(tls.chain),
                "CI": "true",
                "GITHUB_ACTIONS": "true",
                "GITHUB_ACTOR": "octocat",
                "GITHUB_REF_NAME": "main",
                "GITHUB_REPOSITORY": "org/repo",
                "GITHUB_RUN_ID": "1",
                "GITHUB_SERVER_URL": "https://github.com",
                "GITHUB_SHA": "0" * 40,
                "ACTIONS_ID_TOKEN_REQUEST_URL": url,
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the-request-token",
            },
        )


def test_from_a_recipe_to_a_promotion(runner, team, tmp_path):
    """Build, rebuild, sign, publish, ask; then people promote what the registry has, and a pull request is compared."""
    for name in ("build", "rebuild", "sign"):
        runner.job(IMAGE, name)
    links = runner.folder / "artifacts/links"
    (link,) = links.iterdir()
    kept = link.rename(tmp_path / link.name)
    with pytest.raises(Failed, match=r"release\.quorum\.missing"):  # nobody is asked for what a gate refuses
        runner.job(IMAGE, "publish")
    assert not (tmp_path / "gh").exists()
    kept.rename(link)
    runner.job(IMAGE, "publish")
    pinned = runner.outputs["push"]["release"]
    assert pinned.startswith(runner.inputs["place"] + "@sha256:")
    asked, body = (tmp_path / "gh").read_text().splitlines(), (tmp_path / "body").read_text()
    assert asked[:4] == ["issue", "create", "--repo", "org/repo"]
    assert f"Promote {pinned.rpartition('/')[2]} to staging" in asked
    assert f"tally pull {pinned} -o release" in body

    authority = runner.environment["REQUESTS_CA_BUNDLE"]
    tally("pull", pinned, "-o", tmp_path / "pulled", home=team, REQUESTS_CA_BUNDLE=authority)
    tally("verify", tmp_path / "pulled", home=team)
    bundle = tmp_path / "pulled/bundles/index.sigstore.json"
    assert sigstore.signer_of(bundle.read_bytes()) == DAVE
    tally("promote", tmp_path / "pulled", "--channel", "staging", "--as", "alice", home=team)
    for name in ("bob", "carol"):
        tally("approve", "--channel", "staging", "--as", name, home=team)

    runner.event["event_name"] = "pull_request"
    compared = runner.job(IMAGE, "compare")
    assert (compared / "diff.md").read_text().startswith("### No measurement changed")
    assert (tmp_path / "body").read_text() == (compared / "diff.md").read_text()
    login = json.loads((compared.parent / ".docker/config.json").read_text())["auths"]
    ((host, auth),) = login.items()
    assert (host, base64.b64decode(auth["auth"])) == (pinned[6:].partition("/")[0], b"octocat:the-token")
    assert "the-request-token" not in "".join(runner.log)
    assert runner.secrets["rebuilder-key"].splitlines()[1] not in "".join(runner.log)
