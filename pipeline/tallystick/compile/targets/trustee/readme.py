"""The exact commands that put the emitted files into a Trustee deployment, in the order that never widens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.compile.targets.trustee.rego import Appraisal


def readme(
    parts: Sequence[Appraisal], choice: TrusteeTarget, files: Iterable[str], assumptions: Iterable[str]
) -> str:
    """Return the README that lies beside the emitted files."""
    messages = sorted(
        (name for name in files if name.startswith("rvps_")),
        key=lambda name: int(name.removeprefix("rvps_").removesuffix(".json")),
    )
    assumed = "\n".join(f"- {line}" for line in assumptions)
    residual = "\n".join(f"- {line}" for part in parts for line in part.head.residuals) or "- nothing"
    names = " and ".join(part.head.policy for part in parts)
    heads = "\n".join(
        f"Policy `{part.head.policy}`, channel `{part.head.channel}`, {len(part.head.releases)} release(s)."
        for part in parts
    )
    papers = ", ".join(f"`{name}`" for name in sorted(files) if name.startswith("residual"))
    posts = "\n".join(
        f'curl -fsS --cacert "$CA" -H "Authorization: Bearer $(cat "$ADMIN")" \\\n'
        f'  --data-binary @{name} "$KBS/kbs/v0/reference-value"'
        for name in messages
    )
    return f"""# {names} for Trustee {choice.version}

{heads}
{papers} says what this target does not check, by whose decision.

## What must be configured

{assumed}

## What is not checked

{residual}

## Apply, in this order

Evidence is accepted only when the Reference Values, the appraisal policy and the resource policy name the same
release, so until the last step nothing is admitted but what the old and the new policies both admit. That needs an
old policy of ours: the first time, close the door before step 1, because Trustee's own default admits everybody.

```sh
KBS=https://kbs.example:8080 CA=ca.pem ADMIN=admin.jwt

# 0. the first time only
kbs-client --url "$KBS" --cert-file "$CA" config --admin-token-file "$ADMIN" set-resource-policy --deny-all

# 1. the appraisal policy for evidence. The id is default_cpu: an upload as "default" succeeds and is never used.
kbs-client --url "$KBS" --cert-file "$CA" config --admin-token-file "$ADMIN" \\
  set-attestation-policy --type rego --id default_cpu --policy-file as_default_cpu.rego

# 2. the Reference Values: whole tuples, which kbs-client can not send. There is no deletion: to revoke, send again.
{posts}

# 3. the resource policy
kbs-client --url "$KBS" --cert-file "$CA" config --admin-token-file "$ADMIN" \\
  set-resource-policy --policy-file resource_policy.rego
```

Give `--admin-token-file` always: without it kbs-client falls back to a request without authorization.
"""
