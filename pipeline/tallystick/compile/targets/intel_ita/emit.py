"""The files for Intel Trust Authority, and what its policies can not say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tallystick.compile.errors import Inexpressible
from tallystick.compile.targets.base import Emitted, Lack
from tallystick.compile.targets.common import papers, view
from tallystick.compile.targets.common.view import Row
from tallystick.compile.targets.intel_ita import rego
from tallystick.compile.targets.intel_ita.choice import IntelIta
from tallystick.compile.targets.intel_ita.claims import NAMES, ROOTS
from tallystick.core.findings import Finding
from tallystick.policy import document
from tallystick.policy.normal import NormalForm

NAME = "intel-ita"
LABEL = "Intel Trust Authority, policy V2"
MOST_BYTES = 9_999  # "less than 10KB"
MOST_POLICIES = 10  # of a tenant, and of one request
TOKEN_IS_ENOUGH = Lack(
    requirement="token-binding",
    why="Trust Authority signs a token about a machine and releases no key: the relying party must ask for the "
    "matched policy's id and hash, for its own nonce, and wrap the key to the key in attester_runtime_data",
)


def file_name(number: int) -> str:
    """Return the name of the policy with this number."""
    return f"policy_{number}.rego"


def lacks(form: NormalForm, choice: IntelIta) -> Iterator[Lack]:
    """Yield every requirement of ``form`` that Trust Authority can not express."""
    yield from view.lacks(form, NAMES, ROOTS, rego.says, "Trust Authority")
    yield from view.lacks_devices(form, "this policy")
    yield TOKEN_IS_ENOUGH
    if choice.token_seconds > form.max_age_seconds:
        why = (
            f"a token lives {choice.token_seconds} s, the policy takes evidence for {form.max_age_seconds} s"
        )
        yield Lack(requirement="freshness", why=why)


def assumptions(choice: IntelIta) -> tuple[str, ...]:
    """Return what the relying party must do, because no policy can."""
    return (
        (
            "Relying party: iss is Trust Authority's, the signature holds against its JWKS, verifier_nonce or "
            "attester_runtime_data holds the relying party's own nonce"
        ),
        (
            "Relying party: policy_ids_matched holds the id and the hash of one of these policies; a token is issued "
            "when none matches, too"
        ),
        f"Trust Authority: tokens live {choice.token_seconds} s (exp - iat); the relying party refuses older ones",
        "Trust Authority: who can write policies of the tenant decides who gets a token that matches",
    )


def emit(form: NormalForm, choice: IntelIta) -> Emitted:
    """Return the files; :meth:`Backend.emit` says more."""
    whys = {lack.requirement: lack.why for lack in lacks(form, choice)}
    left = view.served(form, NAME)
    assumes = assumptions(choice)
    chunks = _chunks(form, left)
    whole = str(document.digest(form))
    files = {file_name(number): _text(form, left, chunk, whole) for number, chunk in enumerate(chunks)}
    files[papers.RESIDUAL] = papers.residual(form, NAME, LABEL, whys, assumes)
    files[papers.README] = papers.readme(form, NAME, LABEL, assumes, _apply(len(chunks)))
    return Emitted(
        target=NAME,
        files=dict(sorted(files.items())),
        max_age_seconds=choice.token_seconds,
        not_after=view.end(form, NAME),
        assumes=assumes,
    )


def _text(form: NormalForm, left: NormalForm, rows: Sequence[Row], normal_form: str) -> bytes:
    """Return one policy; its export names the releases that it is about, and what they rest on."""
    digests = {digest for row in rows for digest in row.releases}
    about = replace(form, releases=tuple(one for one in form.releases if one.digest in digests))
    summary = papers.summary(about, NAME, normal_form)
    return rego.policy(rows, left.platforms, view.end(form, NAME), summary).encode("utf-8")


def _chunks(form: NormalForm, left: NormalForm) -> list[tuple[Row, ...]]:
    """Return the rows, as many to a policy as fit.

    Raises:
        Inexpressible: they do not fit into ten policies; with how many do.
    """
    found: list[tuple[Row, ...]] = []
    now: tuple[Row, ...] = ()
    everything, whole = view.rows(left), str(document.digest(form))
    for row in everything:
        if now and len(_text(form, left, (*now, row), whole)) > MOST_BYTES:
            found.append(now)
            now = ()
        now = (*now, row)
        if len(now) == 1 and len(size := _text(form, left, now, whole)) > MOST_BYTES:
            finding = Finding("ita.limit.bytes", "one tuple", f"at most {MOST_BYTES} bytes", f"{len(size)}")
            raise Inexpressible(f"{NAME}: not one tuple fits", findings=[finding])
    found.append(now)
    if len(found) > MOST_POLICIES:
        fit = sum(map(len, found[:MOST_POLICIES]))
        want = f"at most {MOST_POLICIES} policies of {MOST_BYTES} bytes: {fit} tuples"
        finding = Finding("ita.limit.policies", NAME, want=want, got=f"{len(everything)} tuples")
        raise Inexpressible(f"{NAME}: {len(everything)} tuples do not fit; {fit} do", findings=[finding])
    return found


def _apply(count: int) -> str:
    names = "\n".join(
        f"trustauthorityctl create policy --policy-name tallystick-{number} "
        f"--policy-file {file_name(number)} | tee policy_{number}.created"
        for number in range(count)
    )
    return f"""## Apply

Names of options differ between versions of `trustauthorityctl`: ask `trustauthorityctl create policy --help`.

```sh
export TRUSTAUTHORITY_API_URL=https://api.trustauthority.intel.com TRUSTAUTHORITY_API_KEY=...   # a tenant admin's

# 1. Create. A policy in use stays in use until its id is taken out of the relying party, in step 3.
{names}

# 2. Attest with these ids: policy_ids of the request, at most {MOST_POLICIES}. With more than one policy do not set
#    policy_must_match: it asks for all of them, and a machine is of one release.

# 3. Relying party: accept a token only when policy_ids_matched holds one of the new ids with its hash; then delete
#    the old policies: trustauthorityctl delete policy --policy-id ...
```

To revoke a release compile again, create the new policies, and let the relying party forget the old ids first.
"""
