"""The exact commands that put the provider and the bindings in place."""

from __future__ import annotations

from collections.abc import Mapping

from tallystick.compile.targets import leftover
from tallystick.compile.targets.gcp_wif.choice import GcpWifTarget
from tallystick.compile.targets.gcp_wif.emit import ALLOW_POLICY, CONDITION, MAPPING
from tallystick.compile.targets.gcp_wif.words import NAME
from tallystick.policy.normal import NormalForm

AUDIENCE = "https://sts.googleapis.com"
ISSUER = "https://confidentialcomputing.googleapis.com/"
ASSUMES = (
    f"the provider's issuer is {ISSUER} and its one audience {AUDIENCE}; a token's nonce is not looked at",
    "no other provider of the pool maps attribute.image_digest",
    "nobody has cryptoKeyDecrypter on the key ring, the project or above: a direct grant bypasses attestation",
    "a token lives an hour, and what it is exchanged for another one: a revoked image can go on for that long",
    "Google leaves cmd_override out of a token when nothing is overridden",
)


def readme(form: NormalForm, choice: GcpWifTarget, whys: Mapping[str, str]) -> str:
    """Return the README that lies beside the files."""
    provider = f"""gcloud iam workload-identity-pools providers {{verb}} {choice.provider} \\
  --project {choice.project_number} --location global --workload-identity-pool {choice.pool} \\
  --issuer-uri {ISSUER} --allowed-audiences {AUDIENCE} \\
  --attribute-mapping "$(cat {MAPPING})" \\
  --attribute-condition "$(cat {CONDITION})\""""
    puts = "\n".join(
        f"gcloud kms keys set-iam-policy {name} {ALLOW_POLICY}   # {key}" for key, name in choice.keys
    )
    checks = "\n".join(f"gcloud kms keys get-iam-policy {name}" for _, name in choice.keys)
    return f"""{leftover.readme_head(form, NAME, "Google Cloud workload identity federation", ASSUMES, whys)}
## Apply

The condition first, when releases are taken away; the allow policies first, when releases are added: in between, the
stricter of the two counts. An allow policy replaces the one that is there.

```sh
gcloud iam workload-identity-pools create {choice.pool} --project {choice.project_number} --location global   # once
{provider.format(verb="create-oidc")}   # once, later:
{provider.format(verb="update-oidc")}
{puts}
```

## Check

```sh
gcloud iam workload-identity-pools providers describe {choice.provider} \\
  --project {choice.project_number} --location global --workload-identity-pool {choice.pool}
gcloud iam workload-identity-pools providers list \\
  --project {choice.project_number} --location global --workload-identity-pool {choice.pool}   # want: this one
{checks}
```
"""
