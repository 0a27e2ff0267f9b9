"""The files for Keylime, and what its policies can not say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tallystick.compile.targets.base import Emitted, Lack
from tallystick.compile.targets.common import papers, view
from tallystick.compile.targets.common.view import Row
from tallystick.compile.targets.keylime import verifier
from tallystick.compile.targets.keylime.choice import Keylime
from tallystick.core.expect import Exactly, Expect, OneOf
from tallystick.policy.constraints import constraints
from tallystick.policy.normal import NormalForm

NAME = "keylime"
LABEL = "Keylime 7"
AGENTS = "agents.json"
# Every register but the two that Keylime keeps for itself.
_REGISTERS = {f"pcr{n:02}": n for n in range(24) if n not in (verifier.IMA_PCR, verifier.DATA_PCR)}
NAMES = {"tpm-quote": dict[str, object](_REGISTERS)}
END = Lack(requirement="end", why="an agent's policy has no end: it holds until the agent is taken out")
ROOT = Lack(
    requirement="roots",
    why="the registrar takes endorsement keys of whoever is in its tpm_cert_store, and without require_ek_cert of "
    "anybody: which roots count is its configuration",
)
PAYLOAD = Lack(
    requirement="keys",
    why="a verifier gives an agent half of one payload's key after the first good quote: all keys of the policy are "
    "in one payload, and an agent that goes bad keeps what it got",
)


def says(kind: str, path: str, expect: Expect) -> bool:
    """Say whether a TPM policy has words for ``expect`` of a register."""
    return isinstance(expect, Exactly | OneOf) and path in _REGISTERS


def lacks(form: NormalForm, choice: Keylime) -> Iterator[Lack]:
    """Yield every requirement of ``form`` that Keylime can not express."""
    yield from view.lacks(form, NAMES, {}, says, "Keylime")
    yield from view.lacks_devices(form, "a verifier")
    yield from (ROOT, PAYLOAD, END)
    if choice.quote_interval_seconds > form.max_age_seconds:
        why = (
            f"a quote every {choice.quote_interval_seconds} s, evidence is good for {form.max_age_seconds} s"
        )
        yield Lack(requirement="freshness", why=why)


def assumptions(choice: Keylime) -> tuple[str, ...]:
    """Return what the deployment's configuration must say, because no policy can."""
    return (
        f"verifier.conf: quote_interval = {choice.quote_interval_seconds}",
        (
            "tenant.conf: accept_tpm_hash_algs = ['sha256'], require_ek_cert = True, tpm_cert_store holds the roots of "
            "the policy and no others"
        ),
        (
            "verifier.conf: the agent gets no measured-boot policy beside these: `{}` and the policy accept-all accept "
            "every event log; the registers here pin what the log would only explain"
        ),
        (
            "tenant: each machine is added with the one agent policy of the release that it runs; TPM policies list "
            "values for each register alone, so two releases never stand in one"
        ),
    )


def emit(form: NormalForm, choice: Keylime) -> Emitted:
    """Return the files; :meth:`Backend.emit` says more."""
    whys = {lack.requirement: lack.why for lack in lacks(form, choice)}
    left = view.served(form, NAME)
    assumes = assumptions(choice)
    agents = {name_of(row): _agent(left, row) for row in view.rows(left)}
    found = {"about": papers.summary(form, NAME), "agents": agents}
    files = {
        AGENTS: (json.dumps(found, indent=1) + "\n").encode(),
        papers.RESIDUAL: papers.residual(form, NAME, LABEL, whys, assumes),
        papers.README: papers.readme(form, NAME, LABEL, assumes, _APPLY),
    }
    return Emitted(
        target=NAME,
        files=dict(sorted(files.items())),
        max_age_seconds=choice.quote_interval_seconds,
        not_after=view.end(form, NAME),
        assumes=assumes,
    )


def name_of(row: Row) -> str:
    """Return the name of an agent policy: the digest of the tuple that it pins."""
    from tallystick.core.digests import Digest

    return f"{row.platform}-{Digest.of(json.dumps(row.pinned).encode()).hex[:16]}"


def _agent(left: NormalForm, row: Row) -> dict[str, Any]:
    """Return one agent's policies: exactly the registers of one tuple, and what is asked of other registers."""
    policy = {_REGISTERS[path]: [str(value)] for path, value in row.pinned}
    for one in constraints(view.rule_of(left, row)):
        wanted = (
            [one.expect.value] if isinstance(one.expect, Exactly) else list(getattr(one.expect, "values", ()))
        )
        register = _REGISTERS[one.path]
        held = policy.get(register, [str(value) for value in wanted])
        policy[register] = [value for value in held if value in wanted]
    pcrs = {register: values[0] for register, values in policy.items() if values}
    aggregate = (
        {verifier.BOOT_AGGREGATE: [verifier.boot_aggregate(pcrs)]} if set(range(10)) <= set(pcrs) else {}
    )
    return {
        "releases": [str(digest) for digest in row.releases],
        "tpm_policy": {str(register): policy[register] for register in sorted(policy)},
        "runtime_policy": {
            "meta": {"version": 1, "generator": 0},
            "release": 0,
            "digests": aggregate,
            "excludes": [],
            "keyrings": {},
            "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None},
            "ima-buf": {},
            "verification-keys": "",
        },
    }


_APPLY = """## Apply

`agents.json` has one entry for each released tuple. A machine gets the entry of the release that it is meant to run: a
machine of another release fails, and so does a mixture.

```sh
ENTRY=...   # one name of: jq -r '.agents | keys[]' agents.json
jq -c --arg e "$ENTRY" '.agents[$e].tpm_policy' agents.json > tpm_policy.json
jq --arg e "$ENTRY" '.agents[$e].runtime_policy' agents.json > runtime_policy.json

# The keys of the policy are the payload; it is encrypted, and opens after the first quote that holds.
keylime_tenant -c add -u "$AGENT_UUID" --tpm_policy "$(cat tpm_policy.json)" -f keys.tar

# A kernel that measures files with IMA: the runtime policy accepts the boot aggregate of this release alone.
keylime_tenant -c add -u "$AGENT_UUID" --tpm_policy "$(cat tpm_policy.json)" \\
  --runtime-policy runtime_policy.json --runtime-policy-name "$ENTRY" -f keys.tar
```

To revoke a release: `keylime_tenant -c delete -u ...` for every machine that runs it, and the revocation actions of the
agents; compile again so that no machine is added with it.
"""
