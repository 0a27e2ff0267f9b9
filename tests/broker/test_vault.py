"""Keys: sealed with their name and channel, for life, and never shown."""

import json
import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.broker import vault as vaults
from tallystick.broker.vault import KeyState, Vault, key_id
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Refused, Unsupported

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
WEIGHTS, TOKENIZER = key_id("acme/weights/v1"), key_id("acme/tokenizer/v1")
SECRET = b"a secret that is looked for in files"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "vault"


@pytest.fixture
def vault(folder):
    return Vault.create(folder)


def key_file(folder, number=0):
    return sorted((folder / "keys").glob("*.json"))[number]


def test_a_key_comes_back_as_it_was_brought(vault, folder):
    vault.bring(WEIGHTS, SECRET, channel="staging", now=NOW)
    found = Vault.open(folder).material(WEIGHTS)
    assert found.secret == SECRET
    assert (found.record.channel, found.record.origin, found.record.made_at) == ("staging", "imported", NOW)


def test_generated_keys_are_256_bits_and_differ(vault):
    for key in (WEIGHTS, TOKENIZER):
        vault.generate(key, channel="staging", now=NOW)
    first, second = (vault.material(key).secret for key in (WEIGHTS, TOKENIZER))
    assert len(first) == len(second) == 32
    assert first != second


def test_no_file_holds_a_secret_and_only_the_owner_may_read_them(vault, folder):
    vault.bring(WEIGHTS, SECRET, channel="staging", now=NOW)
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
        assert path.is_dir() or SECRET not in path.read_bytes()


def test_a_secret_is_not_in_a_repr(vault):
    vault.bring(WEIGHTS, SECRET, channel="staging", now=NOW)
    assert repr(vault.material(WEIGHTS)) == "KeyMaterial(acme/weights/v1)"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channel", "production"),
        ("key", "acme/tokenizer/v1"),
        ("state", "destroyed"),
        ("made_at", "2020-01-01T00:00:00Z"),
        ("sealed", "AAAA"),
        ("nonce", "AAAA"),
    ],
)
def test_a_file_that_was_edited_opens_for_nobody(vault, folder, field, value):
    vault.bring(WEIGHTS, SECRET, channel="staging", now=NOW)
    path = key_file(folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(NotGenuine, match="edited") as caught:
        vault.material(WEIGHTS)
    assert caught.value.code == "vault.not-genuine"


def test_a_file_under_another_keys_name_is_refused(vault, folder):
    vault.bring(WEIGHTS, SECRET, channel="debug", now=NOW)
    path = key_file(folder)
    vault.bring(TOKENIZER, b"other", channel="production", now=NOW)
    other = next(p for p in (folder / "keys").glob("*.json") if p != path)
    other.write_bytes(path.read_bytes())
    with pytest.raises(NotGenuine, match="want key acme/tokenizer/v1, got the file of key acme/weights/v1"):
        vault.material(TOKENIZER)


def test_a_key_of_another_vault_does_not_open(tmp_path):
    one, two = (Vault.create(tmp_path / name) for name in ("one", "two"))
    one.bring(WEIGHTS, SECRET, channel="staging", now=NOW)
    path = key_file(tmp_path / "one")
    (tmp_path / "two" / "keys" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "two" / "keys" / path.name).chmod(0o600)
    with pytest.raises(NotGenuine, match="another vault"):
        two.material(WEIGHTS)


def test_a_name_is_taken_for_life(vault):
    vault.generate(WEIGHTS, channel="debug", now=NOW)
    with pytest.raises(Refused, match="taken by a live key of channel debug") as caught:
        vault.generate(WEIGHTS, channel="production", now=NOW)
    assert caught.value.code == "key.exists"
    vault.destroy(WEIGHTS, now=NOW)
    with pytest.raises(Refused, match="taken by a destroyed key of channel debug"):
        vault.bring(WEIGHTS, SECRET, channel="debug", now=NOW)


def test_a_destroyed_key_is_gone_and_says_so(vault, folder):
    vault.bring(WEIGHTS, SECRET, channel="staging", now=NOW)
    before = key_file(folder).read_bytes()
    assert vault.destroy(WEIGHTS, now=NOW).state is KeyState.DESTROYED
    assert key_file(folder).read_bytes() != before
    with pytest.raises(Refused, match="was destroyed") as caught:
        vault.material(WEIGHTS)
    assert caught.value.code == "key.destroyed"
    assert [record.state for record in vault.records()] == [KeyState.DESTROYED]
    with pytest.raises(Refused, match="was destroyed"):
        vault.destroy(WEIGHTS, now=NOW)


def test_a_key_that_never_was_is_missing(vault):
    assert vault.record(WEIGHTS) is None
    with pytest.raises(Refused, match="there is no key acme/weights/v1") as caught:
        vault.material(WEIGHTS)
    assert caught.value.code == "key.missing"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_master_key_that_others_can_read_is_refused(vault, folder, mode):
    (folder / "master.key").chmod(mode)
    with pytest.raises(NotGenuine, match="want mode 0600") as caught:
        Vault.open(folder)
    assert caught.value.code == "file.not-private"


def test_a_master_key_of_another_length_is_malformed(vault, folder):
    (folder / "master.key").write_bytes(bytes(31))
    with pytest.raises(Malformed, match=r"master\.key: want 32 bytes, got 31"):
        Vault.open(folder)


def test_a_passphrase_opens_and_another_does_not(folder):
    Vault.create(folder, passphrase="right").bring(WEIGHTS, SECRET, channel="staging", now=NOW)
    assert not (folder / "master.key").exists()
    assert Vault.open(folder, passphrase="right").material(WEIGHTS).secret == SECRET
    with pytest.raises(NotGenuine, match="does not open with this passphrase"):
        Vault.open(folder, passphrase="wrong")
    with pytest.raises(Misuse, match="wants a passphrase"):
        Vault.open(folder)


def test_a_passphrase_that_is_not_wanted_is_misuse(vault, folder):
    with pytest.raises(Misuse, match="has no passphrase"):
        Vault.open(folder, passphrase="x")
    with pytest.raises(Misuse, match="is empty"):
        Vault.create(folder.with_name("other"), passphrase="")


def test_weaker_stretching_is_not_accepted(folder):
    Vault.create(folder, passphrase="right")
    path = folder / "vault.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "n": 2}))
    with pytest.raises(Unsupported, match="kdf: want scrypt"):
        Vault.open(folder, passphrase="right")


def test_a_vault_is_made_once_and_must_be_there(vault, folder, tmp_path):
    with pytest.raises(Misuse, match="is a vault already"):
        Vault.create(folder)
    with pytest.raises(Misuse, match="run `tally broker init`"):
        Vault.open(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"schema":"tallystick/vault/v2"}', Unsupported),
        ('{"schema":"tallystick/vault/v1","master":"hsm"}', Unsupported),
        ("[]", Malformed),
        ("{", Malformed),
    ],
)
def test_another_vault_document_is_refused(vault, folder, text, error):
    (folder / "vault.json").write_text(text)
    with pytest.raises(error, match="vault"):
        Vault.open(folder)


@pytest.mark.parametrize("secret", [b"", bytes(vaults.MAX_KEY_BYTES + 1)])
def test_a_key_has_a_size(vault, secret):
    with pytest.raises(Malformed, match="secret: want 1 to 65536 bytes"):
        vault.bring(WEIGHTS, secret, channel="staging", now=NOW)


@pytest.mark.parametrize("name", ["Staging", "", "a b", "../x", "a" * 64, "-a"])
def test_a_channel_has_a_name(vault, name):
    with pytest.raises(Malformed, match="channel"):
        vault.generate(WEIGHTS, channel=name, now=NOW)


@pytest.mark.parametrize("name", ["a/b", "a/b/c/d", "a//c", "../b/c", "a/b/..", "a/b/c\n", "a/b/ü", ""])
def test_a_key_is_a_resource_path(name):
    with pytest.raises(Malformed, match="want repository/type/tag"):
        key_id(name)


@given(st.binary(max_size=300))
def test_any_key_file_is_refused_by_name(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("v") / "vault"
    vault = Vault.create(folder)
    vault.generate(WEIGHTS, channel="staging", now=NOW)
    path = key_file(folder)
    path.write_bytes(data)
    os.chmod(path, 0o600)
    with pytest.raises((Malformed, Unsupported, NotGenuine)):
        vault.material(WEIGHTS)


def test_a_rotation_is_the_next_key_of_the_same_channel_and_the_old_one_stays(vault, folder):
    vault.bring(WEIGHTS, SECRET, channel="staging", now=NOW)
    made = vault.rotate(WEIGHTS, vaults.next_key(WEIGHTS), now=NOW)
    assert (made.key, made.channel, made.replaces) == ("acme/weights/v2", "staging", WEIGHTS)
    assert Vault.open(folder).material(WEIGHTS).secret == SECRET
    assert Vault.open(folder).material(made.key).secret != SECRET
    brought = vault.rotate(made.key, key_id("acme/weights/2027"), now=NOW, secret=b"own")
    assert (brought.origin, vault.material(brought.key).secret) == ("imported", b"own")
    with pytest.raises(Refused, match="is taken"):
        vault.rotate(WEIGHTS, made.key, now=NOW)
    vault.destroy(WEIGHTS, now=NOW)
    with pytest.raises(Refused, match="was destroyed"):
        vault.rotate(WEIGHTS, key_id("acme/weights/v9"), now=NOW)


def test_whose_place_a_key_takes_is_authenticated(vault, folder):
    vault.generate(WEIGHTS, channel="staging", now=NOW)
    path = key_file(folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), "replaces": "acme/tokenizer/v1"}))
    with pytest.raises(NotGenuine, match="edited"):
        vault.record(WEIGHTS)


@pytest.mark.parametrize(
    ("key", "following"),
    [("a/b/v1", "a/b/v2"), ("a/b/v9", "a/b/v10"), ("a/b/2026", "a/b/2027"), ("a/b2/1", "a/b2/2")],
)
def test_the_next_key_counts_on(key, following):
    assert vaults.next_key(key_id(key)) == following


def test_a_tag_without_a_number_has_no_next_one():
    with pytest.raises(Malformed, match="ends in a number"):
        vaults.next_key(key_id("a/b/latest"))
