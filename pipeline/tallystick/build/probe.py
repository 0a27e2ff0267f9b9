"""Whether builds are really sandboxed here: asked of a build, and not of a configuration."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

from tallystick.build import nix as tool
from tallystick.build.nix import Expression, Nix, Say, Store
from tallystick.build.records import NixFacts
from tallystick.core.errors import Exit, TallystickError
from tallystick.core.findings import Finding

SYSTEM = "x86_64-linux"
_WANT = {  # what nix/checks/probe.nix prints, and what it means
    "interfaces": ("lo", "no network but its own"),
    "canary": ("hidden", "a file of the host that anybody may read is hidden"),
    "programs": ("none", "no program of the host is there"),
    "victim": ("intact", "a step can not change what another one made"),
}
_RECORDED = (
    "allow-import-from-derivation",
    "auto-optimise-store",
    "build-users-group",
    "builders",
    "cores",
    "filter-syscalls",
    "max-jobs",
    "restrict-eval",
    "sandbox",
    "sandbox-fallback",
    "sandbox-paths",
    "substituters",
    "system-features",
)


class Unsandboxed(TallystickError):
    """Builds can reach what they must not; nothing that is built here can be attested."""

    exit = Exit.UNSUPPORTED
    default_code = "nix.no-sandbox"


def observe(nix: Nix, store: Store, expression: Expression, say: Say) -> NixFacts:
    """Build the probe and return how Nix really runs here.

    Raises:
        Unsandboxed: with a finding for each thing that a build could see or do and should not.
    """
    lines = _probe(nix, store, expression, say)
    findings = [
        Finding(f"nix.probe.{name}", f"sandbox probe, {name}", want, lines.get(name, "nothing"), meaning)
        for name, (want, meaning) in _WANT.items()
        if lines.get(name) != want
    ]
    if lines.get("uid", "0") == "0":
        findings.append(
            Finding("nix.probe.uid", "sandbox probe, uid", "a user of its own", lines.get("uid", "nothing"))
        )
    config = tool.effective_config(nix, store)
    if config.get("sandbox") not in (True, "true") or config.get("sandbox-fallback") not in (False, "false"):
        got = f"{config.get('sandbox')} and {config.get('sandbox-fallback')}"
        findings.append(Finding("nix.config", "sandbox and sandbox-fallback", "true and false", got))
    if findings:
        raise Unsandboxed("builds on this machine are not sandboxed", findings=findings)
    return NixFacts(
        version=nix.version,
        system=SYSTEM,
        sandbox=True,
        sandbox_fallback=False,
        build_users=True,
        config=tool.facts_of(config, _RECORDED),
    )


def _probe(nix: Nix, store: Store, expression: Expression, say: Say) -> dict[str, str]:
    with tempfile.NamedTemporaryFile(prefix="tallystick-canary-") as canary:
        Path(canary.name).chmod(0o644)
        asked = (*expression.texts, ("nonce", secrets.token_hex(16)), ("canary", canary.name))
        drv, out = tool.evaluate(
            nix,
            store,
            Expression(
                file=expression.file, texts=asked, paths=expression.paths, readable=expression.readable
            ),
            "probe",
        )
        tool.realise(nix, store, [drv], say)
    text = store.real(out).read_text()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
