"""Releases in registries: what is pulled is what was pushed, and nothing else takes its place."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from release import registries

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, NotGenuine, TallystickError, Unreachable
from tallystick.release import artifact, distribute, registry
from tallystick.release.registry import Registry, reference


def _files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _at(host, name="a/b:v1"):
    place = reference(f"oci://{host}/{name}")
    return place, Registry(place, plain_http=True)


def _silent(_):
    pass


@pytest.fixture
def small():
    state = registries.Small()
    with state.serving() as host:
        yield state, host


@pytest.fixture
def pushed(small, world):
    """A small registry that has the release, and the release's folder."""
    state, host = small
    folder = world[1]
    distribute.push(folder, *_at(host), _silent)
    return state, host, folder


def _need_debian():
    if registries.PROGRAM is None:
        reason = "no docker-registry on this machine (Debian package docker-registry)"
        pytest.skip(reason)


def test_a_real_registry_gives_back_every_byte(world, tmp_path):
    _need_debian()
    folder = world[1]
    with registries.debian(tmp_path) as host:
        first = distribute.push(folder, *_at(host), _silent)
        again = distribute.push(folder, *_at(host), _silent)
        got = distribute.pull(*_at(host), tmp_path / "out", _silent)
        distribute.pull(*_at(host, f"a/b@{first.manifest}"), tmp_path / "exact", _silent)
    assert _files(tmp_path / "out") == _files(tmp_path / "exact") == _files(folder)
    assert first.sent > 0
    assert again.sent == 0
    assert got.release == first.release == again.release
    assert {path.split("/")[0] for path in got.beside} >= {"bundles"}


def test_a_bundle_that_was_signed_again_replaces_the_old_one_in_a_real_registry(world, tmp_path):
    _need_debian()
    folder = world[1]
    bundle = folder / "bundles/sbom.sigstore.json"
    with registries.debian(tmp_path) as host:
        distribute.push(folder, *_at(host), _silent)
        other = json.loads(bundle.read_bytes())
        bundle.write_text(json.dumps(other, indent=1))
        distribute.push(folder, *_at(host), _silent)
        distribute.pull(*_at(host), tmp_path / "out", _silent)
    assert _files(tmp_path / "out") == _files(folder)


def test_a_registry_that_keeps_a_list_of_referrers(pushed, tmp_path):
    _, host, folder = pushed
    distribute.pull(*_at(host), tmp_path / "out", _silent)
    assert _files(tmp_path / "out") == _files(folder)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_an_interrupted_pull_goes_on_where_it_was(pushed, tmp_path, monkeypatch):
    state, host, folder = pushed
    monkeypatch.setattr(registry, "_BLOCK_BYTES", 1024)
    state.cut = 2048
    distribute.pull(*_at(host), tmp_path / "out", _silent)
    assert state.ranges == ["bytes=2048-"]
    assert _files(tmp_path / "out") == _files(folder)
    lost = str(Digest.of((folder / "recipe.yaml").read_bytes()))
    blob = state.blobs.pop(lost)
    with pytest.raises(Unreachable, match="404"):
        distribute.pull(*_at(host), tmp_path / "other", _silent)
    assert not (tmp_path / "other").exists()
    had = {p.name for p in (tmp_path / ".other.pull").iterdir()}
    state.blobs = {lost: blob}
    asked = []
    real = Registry.get_blob
    monkeypatch.setattr(
        Registry, "get_blob", lambda self, d, *rest: asked.append(d.hex) or real(self, d, *rest)
    )
    with pytest.raises(Unreachable):
        distribute.pull(*_at(host), tmp_path / "other", _silent)
    assert had
    assert not had & set(asked)


def test_a_push_that_is_repeated_sends_only_what_is_missing(pushed):
    state, host, folder = pushed
    assert distribute.push(folder, *_at(host), _silent).sent == 0
    del state.blobs[str(Digest.of((folder / "recipe.yaml").read_bytes()))]
    assert distribute.push(folder, *_at(host), _silent).sent == 1


BLOB = bytes(range(256)) * 40  # ten chunks of a KiB


def _put(host, kept=None, size=1024, monkeypatch=None):
    from io import BytesIO

    monkeypatch.setattr(registry, "CHUNK_BYTES", size)
    _at(host)[1].put_blob(BytesIO(BLOB), Digest.of(BLOB), len(BLOB), kept)


def test_a_large_file_goes_in_chunks(small, monkeypatch):
    state, host = small
    _put(host, monkeypatch=monkeypatch)
    assert state.blobs[str(Digest.of(BLOB))] == BLOB
    assert state.patches == [f"{at}-{at + 1023}" for at in range(0, len(BLOB), 1024)]


@pytest.mark.parametrize(("forgets", "first"), [(False, "500-1523"), (True, "0-1023")])
def test_an_upload_that_breaks_off_goes_on_where_the_registry_says(small, monkeypatch, forgets, first):
    """In one process: after a chunk that broke off, from the registry's Range; from the start when it forgot."""
    state, host = small
    state.cut_upload, state.forgets = 500, forgets
    _put(host, monkeypatch=monkeypatch)
    assert state.blobs[str(Digest.of(BLOB))] == BLOB
    assert state.patches[0] == first


class _Killed(Exception):
    """The process ends here."""


def _killed_before(monkeypatch, chunk):
    """Let chunks through up to this one, then end the process."""
    asked = Registry._ask

    def ask(self, method, path, **options):
        if options.get("headers", {}).get("Content-Range") == chunk:
            raise _Killed
        return asked(self, method, path, **options)

    monkeypatch.setattr(Registry, "_ask", ask)


def test_another_process_goes_on_with_an_upload(small, monkeypatch, tmp_path):
    state, host = small
    place = tmp_path / "kept"
    with monkeypatch.context() as patched:
        _killed_before(patched, "3072-4095")
        with pytest.raises(_Killed):
            _put(host, registry.Kept(place), monkeypatch=patched)
    assert place.stat().st_mode & 0o777 == 0o600
    done = len(state.patches)
    _put(host, registry.Kept(place), monkeypatch=monkeypatch)
    assert (done, state.patches[3]) == (3, "3072-4095")
    assert len(state.patches) == 10
    assert not place.exists()
    place.write_bytes(b"\xff{")
    assert registry.Kept(place).place(Digest.of(BLOB)) is None


def test_a_real_registry_takes_chunks_and_a_push_goes_on_after_a_kill(world, tmp_path, monkeypatch):
    _need_debian()
    folder = world[1]
    (folder / "seeds/weights.bin").write_bytes(BLOB)
    _again(folder)
    sent = []
    with registries.debian(tmp_path) as host:
        monkeypatch.setattr(registry, "CHUNK_BYTES", 1024)
        with monkeypatch.context() as patched:
            _killed_before(patched, "3072-4095")
            with pytest.raises(_Killed):
                distribute.push(folder, *_at(host), _silent)
        asked = Registry._ask

        def counted(self, method, path, **options):
            sent.append(options.get("headers", {}).get("Content-Range") if method == "PATCH" else None)
            return asked(self, method, path, **options)

        monkeypatch.setattr(Registry, "_ask", counted)
        distribute.push(folder, *_at(host), _silent)
        got = distribute.pull(*_at(host), tmp_path / "out", _silent)
    assert got.release == Digest.of((folder / "index.json").read_bytes())
    assert next(one for one in sent if one) == "3072-4095"  # and not that file's beginning
    assert not list(folder.parent.glob(f".{folder.name}.*.push"))


def _again(folder):
    """Make the index again, unsigned: what is pushed here is not verified."""
    import shutil

    from tallystick.release import index as indexes

    old = indexes.read(folder)
    shutil.rmtree(folder / "bundles")
    shutil.rmtree(folder / "links", ignore_errors=True)
    data = indexes.make(folder, name=old.name, version=old.version, products=dict(old.products))
    (folder / "index.json").write_bytes(data)


@pytest.mark.parametrize("change", [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b + b"x", lambda b: b""])
def test_other_bytes_of_a_blob_are_not_kept(pushed, tmp_path, change):
    state, host, folder = pushed
    data = (folder / "recipe.yaml").read_bytes()
    state.lies[str(Digest.of(data))] = change(data)
    with pytest.raises(TallystickError) as caught:
        distribute.pull(*_at(host), tmp_path / "out", _silent)
    assert caught.value.code == "oci.blob"
    assert not (tmp_path / "out").exists()
    kept = [p.read_bytes() for p in (tmp_path / ".out.pull").iterdir() if p.suffix != ".part"]
    assert change(data) not in [k for k in kept if k]


def test_a_manifest_of_another_digest_is_refused(pushed, tmp_path):
    state, host, _ = pushed
    name = next(n for n in state.manifests if n == str(Digest.of(state.manifests["v1"])))
    state.lies[name] = state.manifests["v1"] + b" "
    with pytest.raises(NotGenuine) as caught:
        distribute.pull(*_at(host, f"a/b@{name}"), tmp_path / "out", _silent)
    assert caught.value.code == "oci.digest"


def test_a_manifest_that_its_index_does_not_give_is_refused(pushed, tmp_path):
    state, host, _ = pushed
    document = json.loads(state.manifests["v1"])
    document["layers"].pop()
    state.lies["v1"] = json.dumps(document).encode()
    with pytest.raises(NotGenuine) as caught:
        distribute.pull(*_at(host), tmp_path / "out", _silent)
    assert caught.value.code == "oci.manifest"


@pytest.mark.parametrize("path", ["../outside.sigstore.json", "/etc/x", "recipe.yaml", "bundles/../../x"])
def test_a_referrer_can_not_write_anywhere_but_beside(pushed, tmp_path, path):
    state, host, _ = pushed
    evil = json.loads(artifact.referrer(state.manifests["v1"], "links/x.link", data := b"planted").decode())
    evil["annotations"]["org.opencontainers.image.title"] = path
    evil["layers"][0]["annotations"]["org.opencontainers.image.title"] = path
    raw = json.dumps(evil).encode()
    state.manifests[str(Digest.of(raw))] = raw
    state.blobs[str(Digest.of(data))] = data
    with pytest.raises(Malformed):
        distribute.pull(*_at(host), tmp_path / "out", _silent)
    assert not (tmp_path / "out").exists()


def test_two_referrers_with_one_path_are_refused(pushed, tmp_path):
    state, host, _ = pushed
    for data in (b"one", b"two"):
        raw = artifact.referrer(state.manifests["v1"], "links/x.link", data)
        state.manifests[str(Digest.of(raw))] = raw
        state.blobs[str(Digest.of(data))] = data
    with pytest.raises(NotGenuine) as caught:
        distribute.pull(*_at(host), tmp_path / "out", _silent)
    assert caught.value.code == "oci.referrer.twice"


def test_a_registry_that_deletes_nothing_says_so(pushed):
    state, host, folder = pushed
    state.deletes = False
    link = next((folder / "bundles").iterdir())
    link.write_text(json.dumps(json.loads(link.read_bytes()), indent=1))
    with pytest.raises(Unreachable, match=r"DELETE .* answers 405"):
        distribute.push(folder, *_at(host), _silent)


def test_somebody_elses_referrers_are_left_alone(pushed, tmp_path):
    state, host, folder = pushed
    foreign = json.loads(artifact.referrer(state.manifests["v1"], "links/x.link", b"{}").decode())
    foreign["artifactType"] = "application/spdx+json"
    raw = json.dumps(foreign).encode()
    state.manifests[str(Digest.of(raw))] = raw
    distribute.pull(*_at(host), tmp_path / "out", _silent)
    assert _files(tmp_path / "out") == _files(folder)


def test_a_damaged_release_is_not_pushed(small, world):
    state, host = small
    (world[1] / "recipe.yaml").write_bytes(b"other")
    with pytest.raises(NotGenuine):
        distribute.push(world[1], *_at(host), _silent)
    assert not state.manifests


def test_a_token_is_fetched_with_the_stored_credentials_and_kept_from_others(
    small, world, tmp_path, monkeypatch
):
    state, host = small
    state.token = "secret-token"
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(Unreachable, match="token service answers 403"):
        distribute.push(world[1], *_at(host), _silent)
    stored = {"auths": {host: {"auth": base64.b64encode(b"u:s").decode()}}}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    distribute.push(world[1], *_at(host), _silent)
    distribute.pull(*_at(host), tmp_path / "out", _silent)
    assert _files(tmp_path / "out") == _files(world[1])
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(Misuse) as caught:
        distribute.push(world[1], *_at(host), _silent)
    assert caught.value.code == "oci.credentials"


def test_an_address_of_another_host_gets_no_credentials(small):
    place = reference(f"oci://{small[1]}/a/b:v1")
    ours = Registry(place, plain_http=True)._ours
    assert ours(f"http://{small[1]}/v2/x")
    assert not ours("http://elsewhere.example/v2/x")
    assert not ours(f"https://{small[1]}/v2/x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "oci://",
        "oci://host",
        "oci://host/Repo:x",
        "oci://host/a",
        "https://host/a:b",
        "oci://host/a:b@sha256:0",
        "oci://ho st/a:b",
        "oci://host/../a:b",
        "oci://u@host/a:b",
        "oci://host/a:b?x",
    ],
)
def test_what_is_no_reference_is_misuse(text):
    with pytest.raises(Misuse):
        reference(text)


def test_nobody_there_is_unreachable(world, tmp_path):
    with pytest.raises(Unreachable):
        distribute.pull(*_at("127.0.0.1:1"), tmp_path / "out", _silent)


def test_an_existing_folder_stays(pushed, tmp_path):
    _, host, _ = pushed
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    with pytest.raises(Misuse):
        distribute.pull(*_at(host), tmp_path / "out", _silent)
    assert (tmp_path / "out/mine").read_text() == "x"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
_fields = st.sampled_from(["layers", "annotations", "subject", "artifactType", "mediaType", "schemaVersion"])


@given(changes=st.dictionaries(_fields, _json, max_size=3), raw=st.none() | st.binary(max_size=50))
def test_no_manifest_ends_in_a_traceback(changes, raw):
    release = b"{}"
    document = json.loads(artifact.referrer(release, "links/x.link", b"x"))
    data = raw if raw is not None else json.dumps(document | changes).encode()
    for read in (artifact.index_blob, artifact.listed, lambda d: artifact.referred(d, release)):
        try:
            read(data)
        except TallystickError:
            continue
