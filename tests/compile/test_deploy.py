"""Putting policies in force in a Trustee, which is here its admin API over HTTP and the engine that it decides with."""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote

import pytest
import support_http
from broker.test_admin_api import Running as Going
from broker.test_admin_api import enrol
from broker.world import new_world
from compile.emitted import case, deployed
from compile.realworld import run
from policy.policyworld import NOW, TOKENIZER, WEIGHTS, release

from tallystick.compile.targets.trustee import deploy
from tallystick.compile.targets.trustee.admin import Admin
from tallystick.compile.targets.trustee.engines import Regorus
from tallystick.compile.targets.trustee.simulate import (
    Denied,
    allows,
    appraisal,
    reference_values,
    resource,
    tcb_claims,
    token,
)
from tallystick.core.errors import Exit, Misuse, Refused, Unreachable

OPEN = "package policy\nimport rego.v1\ndefault allow := true\n"
AFFIRM = (
    'package policy\nimport rego.v1\ntrust_claims := {"executables": 3, "hardware": 2, "configuration": 2}\n'
)


@dataclass
class Trustee:
    """One that was just installed: it affirms everybody and gives every key."""

    appraisals: dict[str, str] = field(default_factory=lambda: {"default_cpu": AFFIRM})
    resource: str = OPEN
    values: dict[str, object] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    dies_at: int = 0  # the request, counted from 1, that is not answered
    forgets: bool = False  # takes Reference Values and keeps none

    def asks(self, method: str, path: str, body: bytes, authorization: str) -> tuple[int, bytes]:
        if authorization != "Bearer admin":
            return 401, b"{}"
        self.seen.append(f"{method} {path}")
        name = path.removeprefix("/kbs/v0/")
        if method == "GET":
            value = self.values.get(unquote(name.removeprefix("reference-value/")))
            return 200, json.dumps(value).encode()
        document = json.loads(body)
        if name == "reference-value":
            if not self.forgets:
                self.values |= reference_values([body])
            return 200, b""
        text = base64.urlsafe_b64decode(document["policy"] + "==").decode()
        if name == "attestation-policy":
            self.appraisals[document["policy_id"]] = text
        else:
            self.resource = text
        return 200, b""

    def gives(self, image: str, key: str) -> bool:
        """From evidence to key, as it stands now."""
        try:
            submod = appraisal(
                Regorus(self.appraisals["default_cpu"], self.values, NOW), tcb_claims(case(image))
            )
        except Denied:
            return False
        return allows(Regorus(self.resource, {}, NOW), token(submod, NOW), resource(key))

    @contextmanager
    def serving(self):
        state = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if state.dies_at and len(state.seen) + 1 >= state.dies_at:
                    self.close_connection = True
                    return
                status, said = state.asks(
                    self.command, self.path, body, self.headers.get("Authorization", "")
                )
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        with support_http.serving(Handler) as url:
            yield url


def _given(trustee):
    return {(image, key) for image in "abcx" for key in (WEIGHTS, TOKENIZER) if trustee.gives(image, key)}


def _both(*images):
    return {(image, key) for image in images for key in (WEIGHTS, TOKENIZER)}


def _put(trustee, files, *, first=False):
    with trustee.serving() as url:
        admin = Admin(url, "admin")
        for step in deploy.steps(files, first=first):
            admin.send(step)


def test_a_new_trustee_gives_everything_until_the_first_step():
    trustee = Trustee()
    assert _given(trustee) == _both("a", "b", "c", "x")
    with trustee.serving() as url:
        admin = Admin(url, "admin")
        first, *rest = deploy.steps(deployed(release("a")).files, first=True)
        admin.send(first)
        assert _given(trustee) == set()
        for step in rest[:-1]:
            admin.send(step)
            assert _given(trustee) == set()
        admin.send(rest[-1])
        assert _given(trustee) == _both("a")


@pytest.mark.parametrize(
    ("old", "new"),
    [("a", "ab"), ("ab", "a"), ("ab", "bc"), ("a", "b"), ("abc", "abc"), ("ab", "")],
)
def test_no_step_admits_what_neither_policy_does_nor_drops_what_both_admit_for_good(old, new):
    trustee = Trustee()

    def files(images):
        made = [release(image, days=number) for number, image in enumerate(images)]
        return deployed(*made, releases=()).files if not made else deployed(*made).files

    _put(trustee, files(old), first=True)
    assert _given(trustee) == _both(*old)
    with trustee.serving() as url:
        admin = Admin(url, "admin")
        for step in deploy.steps(files(new), first=False):
            admin.send(step)
            assert _given(trustee) <= _both(*old) | _both(*new)
    assert _given(trustee) == _both(*new)


def test_an_interrupted_deployment_is_finished_by_repeating_it():
    files = deployed(release("a"), release("b", days=1)).files
    count = len(deploy.steps(files, first=True))
    for dies_at in range(1, count + 1):
        trustee = Trustee(dies_at=dies_at)
        with pytest.raises(Unreachable):
            _put(trustee, files, first=True)
        assert _given(trustee) == (_both("a", "b", "c", "x") if dies_at == 1 else set())
        trustee.dies_at = 0
        _put(trustee, files, first=True)
        assert _given(trustee) == _both("a", "b")


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://kbs.example", "https://u:p@kbs.example", "https://x/?y"]
)
def test_an_address_that_is_none(url):
    with pytest.raises(Misuse):
        Admin(url, "admin")


def test_a_token_that_is_empty_or_wrong():
    trustee = Trustee()
    with trustee.serving() as url:
        with pytest.raises(Misuse):
            Admin(url, "")
        with pytest.raises(Refused, match="401"):
            Admin(url, "other").send(deploy.steps(deployed().files, first=True)[0])
        with pytest.raises(Refused, match="401"):
            Admin(url, "other").reference_value("x")
    assert trustee.resource == OPEN


# The commands


@pytest.fixture
def applied(smaller, real, capsys, tmp_path):
    """A compiled policy, the arguments to apply it, and a new Trustee."""
    folder = tmp_path / "out"
    code, _ = run(real.arguments("compile", str(real.policy), "-o", str(folder)), capsys)
    assert code == Exit.OK
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("admin\n")
    trustee = Trustee()
    with trustee.serving() as url:
        common = ["--url", url, "--admin-token-file", str(tmp_path / "token")]
        proven = real.arguments("broker", "apply", str(folder), "--policy", str(real.policy), *common)
        yield trustee, proven, ["broker", "drift", str(folder), *common], folder


def test_apply_needs_first_where_nothing_of_ours_is(applied, capsys):
    trustee, apply, drift, _ = applied
    code, found = run(apply, capsys)
    assert (code, found["error"]["code"]) == (Exit.REFUSED, "apply.first")
    assert trustee.resource == OPEN
    code, found = run([*apply, "--first", "--dry-run"], capsys)
    assert (code, found["sent"]) == (Exit.OK, 0)
    assert trustee.resource == OPEN
    code, found = run(drift, capsys)
    assert (code, found["error"]["code"]) == (Exit.REFUSED, "drift.reference-value")
    code, found = run([*apply, "--first"], capsys)
    assert code == Exit.OK
    assert found["steps"][0] == "resource policy: deny all"
    assert trustee.gives("a", WEIGHTS)
    assert not trustee.gives("b", WEIGHTS)
    assert run(apply, capsys)[0] == Exit.OK
    code, found = run(drift, capsys)
    assert (code, found["findings"]) == (Exit.OK, [])


INDEX = "retrieval/index/v1"


def second(real, tmp_path, capsys, *more):
    """Another policy for the same Trustee, compiled: its path and its folder."""
    text = real.policy.read_text().replace("name: confidential-inference", "name: retrieval", 1)
    for old, new in (*((f"key: {key}", f"key: {INDEX}") for key in (WEIGHTS,)), *more):
        assert old in text
        text = text.replace(old, new, 1)
    lines = [line for line in text.split("\n") if TOKENIZER not in line and "artifact: tokenizer" not in line]
    path, folder = real.folder / "second.yaml", tmp_path / "second"
    path.write_text("\n".join(lines))
    code, found = run(real.arguments("compile", str(path), "-o", str(folder)), capsys)
    assert code == Exit.OK, found
    return path, folder


def test_two_policies_are_put_in_force_in_one_trustee(applied, real, capsys, tmp_path):
    trustee, apply, drift, folder = applied
    path, other = second(real, tmp_path, capsys)
    both = [*apply[:2], str(folder), str(other), *apply[3:], "--policy", str(path)]
    code, found = run([*both, "--first", "--dry-run", "-o", str(tmp_path / "files")], capsys)
    assert (code, found["sent"]) == (Exit.OK, 0)
    assert "residual-retrieval.json" in {one.name for one in (tmp_path / "files").iterdir()}
    assert run([*both, "--first", "--dry-run", "-o", str(tmp_path / "files")], capsys)[0] == Exit.MISUSE
    assert run([*both, "--first", "-o", str(tmp_path / "more")], capsys)[0] == Exit.MISUSE
    assert run([*apply[:2], str(folder), str(other), *apply[3:]], capsys)[0] == Exit.MISUSE
    code, found = run([*both, "--first"], capsys)
    assert code == Exit.OK, found
    assert trustee.gives("a", WEIGHTS)
    assert trustee.gives("a", INDEX)
    assert not trustee.gives("b", INDEX)
    assert run([*drift[:2], str(folder), str(other), *drift[3:]], capsys)[0] == Exit.OK
    assert run(apply, capsys)[0] == Exit.OK  # the first policy alone again
    assert trustee.gives("a", WEIGHTS)
    assert not trustee.gives("a", INDEX)


def test_two_policies_with_one_key_are_refused_and_nothing_is_sent(applied, real, capsys, tmp_path):
    trustee, apply, _, folder = applied
    path, other = second(real, tmp_path, capsys, (f"key: {INDEX}", f"key: {WEIGHTS}"))
    both = [*apply[:2], str(folder), str(other), *apply[3:], "--policy", str(path)]
    code, found = run([*both, "--first"], capsys)
    assert (code, found["error"]["code"]) == (Exit.REFUSED, "trustee.merge.key")
    assert trustee.seen == []


def test_drift_names_what_somebody_changed(applied, capsys):
    trustee, apply, drift, _ = applied
    run([*apply, "--first"], capsys)
    name = next(iter(trustee.values))
    trustee.values[name] = "other"
    code, found = run(drift, capsys)
    assert code == Exit.REFUSED
    assert [finding["where"] for finding in found["error"]["findings"]] == [name]
    assert '"other"' in found["error"]["findings"][0]["got"]


def test_a_trustee_that_keeps_nothing_is_not_called_done(applied, capsys):
    trustee, apply, _, _ = applied
    trustee.forgets = True
    code, found = run([*apply, "--first"], capsys)
    assert (code, found["error"]["code"]) == (Exit.REFUSED, "drift.reference-value")


def test_a_compiled_policy_that_was_edited_is_not_applied(applied, capsys):
    trustee, apply, _, folder = applied
    place = folder / "trustee/resource_policy.rego"
    place.write_text(place.read_text().replace("default allow := false", "default allow := true"))
    code, _ = run([*apply, "--first"], capsys)
    assert code == Exit.NOT_GENUINE
    assert trustee.seen == []


def test_our_own_broker_takes_no_upload_and_says_what_it_runs(applied, capsys, tmp_path):
    _, apply, _, folder = applied
    code, found = run([*apply, "--target", "broker"], capsys)
    assert (code, found["error"]["code"]) == (Exit.MISUSE, "admin.url")
    (tmp_path / "own").mkdir()
    with new_world(tmp_path / "own").running() as running:
        code, found = run(
            ["broker", "drift", str(folder), "--target", "broker", "--url", running.url], capsys
        )
    assert code == Exit.REFUSED
    assert {finding["code"] for finding in found["error"]["findings"]} == {"drift.policy"}
    code, _ = run(
        ["broker", "drift", str(folder), "--target", "broker", "--url", "http://127.0.0.1:1"], capsys
    )
    assert code == Exit.UNREACHABLE


def test_our_own_broker_reads_its_channel_when_it_is_asked_to_and_says_what_is_then_in_force(
    applied, capsys, tmp_path
):
    _, apply, _, folder = applied
    world = new_world(tmp_path / "own")
    world.clock = Going()
    with world.running() as running:
        enrol(running).write(tmp_path / "admin.key")
        place = ["--target", "broker", "--url", running.url, "--admin-key", str(tmp_path / "admin.key")]
        policy = apply[apply.index("--policy") + 1]
        code, found = run(["broker", "apply", str(folder), "--policy", policy, *place], capsys)
        assert [leaf["path"] for leaf in world.leaves() if leaf["kind"] == "admin"] == [
            "/tally/v0/admin/channel"
        ]
    assert code == Exit.REFUSED
    assert "takes no upload" in found["error"]["message"]
    assert "drift.policy" in {one["code"] for one in found["error"]["findings"]}
