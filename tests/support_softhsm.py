"""A SoftHSM token for tests: a fresh one in a folder of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tallystick.signing import hardware

PIN = "1234"
MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
)


@dataclass
class Token:
    """An initialised token; ``make`` runs with a session that may write, and gives a key's URI."""

    label: str
    module: str
    library: Any

    def uri(self, name: str) -> str:
        return f"pkcs11:token={self.label};object={name}?module-path={self.module}"

    def make(self, name: str, generate: Callable[[Any], object]) -> str:
        with self.library.get_token(token_label=self.label).open(rw=True, user_pin=PIN) as session:
            generate(session)
        return self.uri(name)


@contextmanager
def token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Token]:
    """Give a fresh token; skipped where there is no SoftHSM, never in CI."""
    module = next((path for path in MODULES if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        reason = "no SoftHSM (Debian: softhsm2)"
        pytest.skip(reason)
    import pkcs11

    (folder / "tokens").mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    label = f"tally-{os.urandom(6).hex()}"
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "5678"]
    subprocess.run(command, check=True, capture_output=True)
    library = pkcs11.lib(module)
    library.reinitialize()  # the library reads its configuration once
    hardware._session.cache_clear()
    try:
        yield Token(label=label, module=module, library=library)
    finally:
        hardware._session.cache_clear()
