"""The exact commands that put a key policy in place."""

from __future__ import annotations

from collections.abc import Mapping

from tallystick.compile.targets import leftover
from tallystick.compile.targets.aws_kms.choice import AwsKmsTarget
from tallystick.compile.targets.aws_kms.words import NAME
from tallystick.policy.normal import NormalForm

ASSUMES = (
    "AWS KMS: no grant is on the key (aws kms list-grants); a grant is not part of a key policy",
    "AWS KMS: an attestation document is taken for at most 5 minutes, and its nonce is not looked at",
    "AWS KMS: whoever is listed as administrator can replace this policy",
    "AWS KMS: a changed policy is in force everywhere after some minutes (eventual consistency)",
)


def readme(form: NormalForm, choice: AwsKmsTarget, whys: Mapping[str, str]) -> str:
    """Return the README that lies beside the key policy."""
    puts = "\n".join(
        f"aws kms put-key-policy --key-id {arn} \\\n"
        f"  --policy-name default --policy file://key-policy.json   # {key}"
        for key, arn in choice.keys
    )
    checks = "\n".join(
        f"aws kms get-key-policy --key-id {arn} --policy-name default --query Policy --output text\n"
        f"aws kms list-grants --key-id {arn}   # want: none"
        for _, arn in choice.keys
    )
    return f"""{leftover.readme_head(form, NAME, "AWS KMS key policy", ASSUMES, whys)}
## Apply

Syntax, by AWS itself:

```sh
aws accessanalyzer validate-policy --policy-type RESOURCE_POLICY --policy-document file://key-policy.json
```

Every key of the policy gets the same document. Do not add `--bypass-policy-lockout-safety-check`: the caller must be
one of the administrators, or the key is lost.

```sh
{puts}
```

## Check

```sh
{checks}
```

## Revoke a release

Compile again without it and apply again. Until then:

```sh
aws kms disable-key --key-id KEY
```
"""
