"""The file that a bundle is about, named by path or digest."""

from __future__ import annotations

import hashlib

import pytest

from tallystick.core.digests import Algorithm
from tallystick.core.errors import Misuse, Unsupported
from tallystick.signing import artifact


def test_a_digest_or_a_file(tmp_path, monkeypatch):
    text = "sha256:" + hashlib.sha256(b"x").hexdigest()
    assert artifact.of(text).path is None
    (tmp_path / "f").write_bytes(b"x")
    found = artifact.of(str(tmp_path / "f"))
    assert str(found.sha256) == text
    assert found.digest(Algorithm.SHA512).value == hashlib.sha512(b"x").digest()
    assert found.content() == b"x"
    monkeypatch.chdir(tmp_path)
    (tmp_path / text).write_bytes(b"y")  # a file of that name is a file
    assert artifact.of(text).sha256.value == hashlib.sha256(b"y").digest()


def test_what_is_neither(tmp_path):
    for name in ("none", "sha256:ab", "sha256:" + "AB" * 32, "sha1:" + "ab" * 20):
        with pytest.raises(Misuse, match="no file"):
            artifact.of(str(tmp_path / name))
    with pytest.raises(Misuse, match="a folder"):
        artifact.of(str(tmp_path))


def test_a_digest_does_not_tell_another(tmp_path):
    known = artifact.of("sha256:" + "ab" * 32)
    assert known.digests() == (known.sha256,)
    for call in (lambda: known.digest(Algorithm.SHA384), known.content):
        with pytest.raises(Unsupported, match="want the file"):
            call()
