"""The exact commands that put the policies in place."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from tallystick.compile.targets import leftover
from tallystick.compile.targets.azure_skr.choice import AzureSkrTarget
from tallystick.compile.targets.azure_skr.emit import ATTESTATION_POLICY, RELEASE_POLICY, SNP_TYPE
from tallystick.compile.targets.azure_skr.words import NAME
from tallystick.policy.normal import NormalForm


def assumes(choice: AzureSkrTarget, *, own_policy: bool) -> tuple[str, ...]:
    """Return what the deployment must see to, because no policy can."""
    found = [
        f"tokens of {choice.authority} live at most {choice.token_minutes} minutes (compare exp and iat of one)",
        "the key is exportable, its policy mutable, and only the workload's identity has the right to release it",
        "Key Vault compares a claim's JSON type with the policy's; both readings of `equals` are proved",
    ]
    if own_policy:
        found.append(
            "the instance evaluates claims of SNP reports under the names of its tokens, itself issues "
            "x-ms-compliance-status, and holds to report_validity_in_minutes (documented for TPM and VBS)"
        )
        found.append("whoever can set the instance's policies and signers can have other tokens issued")
    else:
        found.append(
            f"{choice.authority} issues no claim under a name of the service; its policy is not pinned"
        )
    return tuple(found)


def readme(form: NormalForm, choice: AzureSkrTarget, whys: Mapping[str, str], *, own_policy: bool) -> str:
    """Return the README that lies beside the policies."""
    assumed = assumes(choice, own_policy=own_policy)
    create = "\n".join(_create(key, url) for key, url in choice.keys)
    update = "\n".join(
        f"az keyvault key set-attributes --id {url} --policy {RELEASE_POLICY}   # {key}"
        for key, url in choice.keys
    )
    check = "\n".join(f"az keyvault key show --id {url} --query releasePolicy" for _, url in choice.keys)
    attest = ""
    if own_policy:
        name = (urlsplit(choice.authority).hostname or "").split(".")[0]
        attest = f"""
## The attestation policy first

The release policy asks for this policy's hash: set it byte for byte, unsigned, as text.

```sh
az attestation policy set --name {name} --resource-group "$GROUP" \\
  --attestation-type {SNP_TYPE} --new-attestation-policy-file {ATTESTATION_POLICY}
az attestation policy show --name {name} --resource-group "$GROUP" --attestation-type {SNP_TYPE}
```
"""
    return f"""{leftover.readme_head(form, NAME, "Azure secure key release", assumed, whys)}{attest}
## New keys

```sh
{create}
```

Leave out `--immutable`: a policy that can not be changed can not revoke a release.

## Keys that are there

```sh
{update}
```

## Check

```sh
{check}
```

The size that Key Vault takes is not documented; this policy has to be set once to know.
"""


def _create(key: str, url: str) -> str:
    parts = urlsplit(url)
    host, name = parts.hostname or "", parts.path.rpartition("/")[2]
    place = "--hsm-name" if ".managedhsm." in host else "--vault-name"
    return (
        f"az keyvault key create {place} {host.split('.')[0]} --name {name} --kty RSA-HSM --size 3072 \\\n"
        f"  --exportable true --ops wrapKey unwrapKey --policy {RELEASE_POLICY}   # {key}"
    )
