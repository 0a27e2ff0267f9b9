"""``tally broker apply`` and ``tally broker drift``: compiled policies in brokers that run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.broker_admin import AdminKeyFile, client
from tallystick.cli.channels import At, ChannelDir, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, emit, progress
from tallystick.core.errors import Misuse, Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tallystick.compile.targets.base import Proof
    from tallystick.compile.targets.trustee.admin import Admin
    from tallystick.core.findings import Finding

_MAX_TOKEN_BYTES = 64 << 10
_MAX_ANSWER_BYTES = 1 << 20

Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="FOLDER…", help="What `tally compile` wrote; several for several policies of one broker."
    ),
]
Url = Annotated[str, typer.Option("--url", help="Address of the broker: https://HOST:PORT.")]
TargetName = Annotated[str, typer.Option("--target", help="trustee, or broker for our own.")]
AdminToken = Annotated[
    Path | None, typer.Option("--admin-token-file", help="A 0600 file with the administrator's bearer token.")
]
CaFile = Annotated[
    Path | None, typer.Option("--ca", help="PEM file of the authority of the broker's certificate.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(apply)
    app.command()(drift)


def apply(
    folder: Folders,
    policy: Annotated[
        list[Path],
        typer.Option("--policy", help="The policy it is of, a YAML file; one for each folder, in order."),
    ],
    url: Url,
    admin_token_file: AdminToken = None,
    admin_key: AdminKeyFile = None,
    target: TargetName = "trustee",
    ca: CaFile = None,
    first: Annotated[
        bool, typer.Option("--first", help="What is deployed is not ours: close the door to everybody first.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say the steps, and send nothing.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="With --dry-run: a new folder for what would be sent."),
    ] = None,
    workdir: Workdir = None,
    channel_dir: ChannelDir = None,
    trust: TrustFile = None,
    at: At = None,
    as_json: JsonFlag = False,
) -> None:
    """Prove compiled policies once more and put them in force in a Trustee, tightening before widening.

    Several policies become one set of files, proved for each of them: a KBS has one resource policy. Repeat it when it
    was interrupted: every step can be sent again. Our broker takes no upload: with --target broker it reads its channel
    now, and what is in force then must be these policies.
    """
    from tallystick.compile.targets.trustee import deploy

    if target == "broker":
        _have_read(folder, url, admin_key, ca, as_json=as_json)
        return
    if target != "trustee":
        want = "promote the compiled policy: our broker loads it from the channel and takes no upload"
        raise Misuse(f"apply is for trustee and broker; {want}", code="apply.target")
    if output is not None and not dry_run:
        raise Misuse("--output is for --dry-run", code="apply.output")
    files, proofs = _deployment(folder, policy, workdir, channel_dir, trust, at)
    planned = deploy.steps(files, first=first)
    names = [step.what for step in planned]
    if dry_run:
        _write(output, files)
        emit({"target": target, "url": url, "steps": names, "sent": 0}, "\n".join(names), as_json=as_json)
        return
    admin = _admin(url, admin_token_file, ca)
    if not first:
        _check_ours(admin, deploy.expected(files))
    for number, step in enumerate(planned, 1):
        progress(f"[{number}/{len(planned)}] {step.what}")
        admin.send(step)
    if findings := _reference_drift(admin, deploy.expected(files)):
        raise Refused("the KBS took the policy and answers other Reference Values", findings=findings)
    words = [f"in force at {url}", *(proof.words for proof in proofs)]
    emit(
        {"target": target, "url": url, "steps": names, "sent": len(names)}, "\n".join(words), as_json=as_json
    )


def _have_read(
    folders: Sequence[Path], url: str, admin_key: Path | None, ca: Path | None, *, as_json: bool
) -> None:
    """Have our broker read its channel, and compare what is then in force with what was compiled."""
    held = [files_of(one, "broker") for one in folders]
    asked = client(url, admin_key, ca)
    deployed = {} if asked is None else asked.read_channel()
    findings, compared = _policy_drift(deployed, held)
    if findings:
        words = "promote the compiled policy: the broker loads it from the channel and takes no upload"
        raise Refused(f"{url} read its channel, which has another policy; {words}", findings=findings)
    emit(
        {"target": "broker", "url": url, "compared": compared, "version": deployed["version"]},
        f"in force at {url}: version {deployed['version']} of channel {deployed['channel']}",
        as_json=as_json,
    )


def drift(
    folder: Folders,
    url: Url,
    admin_token_file: AdminToken = None,
    target: TargetName = "trustee",
    ca: CaFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Report what is deployed but was not compiled. Exit 6 when there is something.

    Of a Trustee the Reference Values can be read back, and no policy; of our broker every policy's digest.
    """
    from tallystick.compile.targets.trustee import deploy

    if target not in ("trustee", "broker"):
        raise Misuse(f"{target} can not be asked: want trustee or broker", code="apply.target")
    held = [files_of(one, target) for one in folder]
    if target == "trustee":
        expected = {name: value for files in held for name, value in deploy.expected(files).items()}
        findings, compared = _reference_drift(_admin(url, admin_token_file, ca), expected), len(expected)
    else:
        findings, compared = _policy_drift(_ask_broker(url, ca), held)
    if findings:
        raise Refused(f"{url} does not run what is in {', '.join(map(str, folder))}", findings=findings)
    read = "Reference Values (policies can not be read back)" if target == "trustee" else "policies"
    words = f"no drift: {compared} {read} at {url} are what was compiled"
    emit({"target": target, "url": url, "compared": compared, "findings": []}, words, as_json=as_json)


def files_of(folder: Path, target: str) -> Mapping[str, bytes]:
    """Return one target's files of what `tally compile` wrote into ``folder``."""
    from tallystick.compile import output

    compilation = output.read(folder)
    if target not in compilation.files:
        raise Misuse(f"{folder} was not compiled for {target}", code="apply.target")
    return compilation.of(target)


def _deployment(
    folders: Sequence[Path],
    policies: Sequence[Path],
    workdir: Path | None,
    channel_dir: Path | None,
    trust: Path | None,
    at: str | None,
) -> tuple[Mapping[str, bytes], Sequence[Proof]]:
    """Return the files for one Trustee that serves every folder's policy, and their proofs."""
    from tallystick.cli.prove import proved
    from tallystick.compile.targets.trustee import choice, emit, merge

    if len(folders) != len(policies):
        message = f"want one --policy for each folder, got {len(policies)} for {len(folders)}"
        raise Misuse(message, code="apply.policies")
    entries, proofs = [], []
    for folder, policy in zip(folders, policies, strict=True):
        files_of(folder, emit.NAME)
        wanted, form, shown, now = proved(folder, policy, workdir, channel_dir, trust, at)
        entries += [(form, choice.of(one)) for one in wanted.targets if one.name == emit.NAME]
        proofs += [proof for proof in shown if proof.target == emit.NAME]
    if len(folders) == 1:
        return files_of(folders[0], emit.NAME), proofs
    deployment = merge.deployment(entries)
    files = deployment.files()
    return files, merge.prove(files, deployment, now)


def _write(output: Path | None, files: Mapping[str, bytes]) -> None:
    from tallystick.core.files import whole_folder, write_file

    if output is None:
        return
    if output.exists():
        raise Misuse(f"{output} is there already: want a new folder", code="apply.output")
    with whole_folder(output) as work:
        for name, data in files.items():
            write_file(work / name, data)


def _admin(url: str, token_file: Path | None, ca: Path | None) -> Admin:
    from tallystick.broker.secretfiles import read_secret
    from tallystick.compile.targets.trustee.admin import Admin

    if token_file is None:
        raise Misuse("want --admin-token-file: Trustee is never asked without a token", code="trustee.admin")
    token = read_secret(token_file, "administrator's token", max_bytes=_MAX_TOKEN_BYTES)
    return Admin(url, token.decode("ascii", "replace").strip(), ca=ca)


def _check_ours(admin: Admin, expected: dict[str, Any]) -> None:
    """Refuse to go on where no Reference Value of ours is: then the door may stand open.

    Raises:
        Refused: it was never applied here (``apply.first``).
    """
    if all(admin.reference_value(name) is None for name in expected):
        message = "no Reference Value of this policy is there: give --first, which denies everybody until the last step"
        raise Refused(message, code="apply.first")


def _reference_drift(admin: Admin, expected: dict[str, Any]) -> list[Finding]:
    import json

    from tallystick.core.findings import Finding

    found = []
    for name, want in sorted(expected.items()):
        got = admin.reference_value(name)
        if got != want or type(got) is not type(want):
            shown = "nothing" if got is None else json.dumps(got)[:200]
            found.append(Finding("drift.reference-value", name, json.dumps(want)[:200], shown))
    return found


def _policy_drift(deployed: dict[str, Any], held: Sequence[Mapping[str, bytes]]) -> tuple[list[Finding], int]:
    from tallystick.compile.targets.broker import FILE
    from tallystick.core.digests import Digest
    from tallystick.core.findings import Finding
    from tallystick.policy import document

    found = []
    for files in held:
        form = document.read(files[FILE])
        want = str(Digest.of(files[FILE]))
        got = str(deployed.get("policies", {}).get(form.policy, "nothing"))
        if got != want:
            found.append(Finding("drift.policy", form.policy, want, got))
        if deployed.get("channel") != form.channel:
            found.append(Finding("drift.channel", "channel", form.channel, str(deployed.get("channel"))))
    return found, len(held)


def _ask_broker(url: str, ca: Path | None) -> dict[str, Any]:
    import json

    import requests

    from tallystick.broker.app import POLICIES_PATH

    try:
        answer = requests.get(
            url.rstrip("/") + POLICIES_PATH,
            timeout=(10, 30),
            verify=str(ca) if ca else True,
            allow_redirects=False,
        )
        said = json.loads(answer.content) if len(answer.content) < _MAX_ANSWER_BYTES else None
    except (requests.RequestException, ValueError) as error:
        raise Unreachable(f"{url}: {type(error).__name__}", code="broker.unreachable") from None
    if answer.status_code != 200 or not isinstance(said, dict) or not isinstance(said.get("policies"), dict):
        raise Unreachable(f"{url} answers {answer.status_code} and no policies", code="broker.unreachable")
    return said
