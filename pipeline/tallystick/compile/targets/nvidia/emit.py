"""The files for NVIDIA's attestation SDK, and what its policies can not say."""

from __future__ import annotations

from collections.abc import Iterator

from tallystick.compile.errors import Inexpressible
from tallystick.compile.targets.base import Emitted, Lack
from tallystick.compile.targets.common import papers, view
from tallystick.compile.targets.nvidia import rego
from tallystick.compile.targets.nvidia.choice import Nvidia
from tallystick.core.findings import Finding
from tallystick.policy.constraints import constraints, told
from tallystick.policy.normal import DeviceRule, NormalForm

NAME = "nvidia"
LABEL = "NVIDIA attestation SDK"
DEVICE = "nvidia-gpu"
ROOT = "nvidia"
CALL_SECONDS = 60  # the SDK makes the nonce of an attestation itself, and evaluates its claims at once
MACHINE = Lack(
    requirement="machine",
    why="the SDK judges GPUs alone: the machine they are in, and that they are in it, is for a target that judges "
    "the machine and whose report data covers the GPUs' evidence",
)
KEYS = Lack(requirement="keys", why="the SDK says yes or no and releases no key: its caller must")


def file_name(platform: str) -> str:
    """Return the name of the policy for the GPUs of a machine of this platform."""
    return f"relying_party_{platform}.rego"


def lacks(form: NormalForm, choice: Nvidia) -> Iterator[Lack]:
    """Yield every requirement of ``form`` that a relying-party policy can not express."""
    yield from (MACHINE, KEYS)
    for _, rule in rules(form):
        if ROOT not in rule.roots:
            yield Lack(requirement=f"device-{DEVICE}", why=f"the SDK checks that evidence is of {ROOT}")
        for one in constraints(rule):
            if one.path not in rego.CLAIMS:
                yield Lack(requirement=one.requirement, why=f"the SDK's claims do not tell {one.path}")
            elif not rego.says(one.path, one.expect):
                words = type(one.expect).__name__
                yield Lack(requirement=one.requirement, why=f"no words for {words} of {one.path}")


def rules(form: NormalForm) -> tuple[tuple[str, DeviceRule], ...]:
    """Return what is asked of the GPUs of each platform.

    Raises:
        Inexpressible: nothing is asked of any GPU.
    """
    found = tuple(
        (rule.platform, device)
        for rule in form.platforms
        for device in rule.devices
        if device.platform == DEVICE
    )
    if not found:
        finding = Finding("target.inexpressible", NAME, want=f"a policy that asks for {DEVICE}", got="none")
        raise Inexpressible(f"{NAME}: the policy says nothing of GPUs", findings=[finding])
    return found


def assumptions() -> tuple[str, ...]:
    """Return what the caller of the SDK must do, because no policy can."""
    return (
        "Caller: nvattest makes a new nonce for each attestation, and its claims are not taken from a file",
        "Caller: the key is released only when the same attestation of the machine covers the GPUs' evidence",
        (
            "Caller: local tokens are not signed by anybody else (alg none, or a known HS256 key): never take them "
            "from outside"
        ),
    )


def emit(form: NormalForm, choice: Nvidia) -> Emitted:
    """Return the files; :meth:`Backend.emit` says more."""
    whys = {lack.requirement: lack.why for lack in lacks(form, choice)}
    ends, assumes = view.end(form, NAME), assumptions()
    files = {}
    for platform, rule in rules(told(form, NAME)):
        head = papers.head(form, NAME, f"NVIDIA attestation SDK, relying-party policy: GPUs of {platform}")
        files[file_name(platform)] = rego.policy(rule, ends, head).encode("utf-8")
    names = sorted(files)
    files[papers.RESIDUAL] = papers.residual(form, NAME, LABEL, whys, assumes)
    files[papers.README] = papers.readme(form, NAME, LABEL, assumes, _apply(names))
    return Emitted(
        target=NAME,
        files=dict(sorted(files.items())),
        max_age_seconds=min(CALL_SECONDS, form.max_age_seconds),
        not_after=ends,
        assumes=assumes,
    )


def _apply(names: list[str]) -> str:
    lines = "\n".join(
        f"nvattest attest --device gpu --verifier local --relying-party-policy {name}" for name in names
    )
    return f"""## Apply

One policy for each platform of the machine. Exit code 0 says that every GPU is as asked; anything else is a refusal.

```sh
{lines}
```

In a program: `nvat_relying_party_policy_create_rego_from_str`, with the file's text. There is no version in JSON: those
compare for equality alone, have no end, and hold of no GPU at all when the list of claims is empty.
"""
