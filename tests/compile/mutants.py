"""Compiled policies with one thing changed: every condition dropped, weakened or flipped, every set widened."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy

import rfc8785

OTHER = "ab" * 32
Mutant = tuple[str, Mapping[str, bytes]]


def broker(files: Mapping[str, bytes]) -> Iterator[Mutant]:
    document = json.loads(files["policy.json"])
    for what, changed in _documents(document):
        if changed != document:
            yield what, {"policy.json": rfc8785.dumps(changed)}


def _documents(document: dict) -> Iterator[tuple[str, dict]]:
    def edit(what, change):
        copy = deepcopy(document)
        change(copy)
        return what, copy

    for r, release in enumerate(document["releases"]):
        yield edit(f"drop release {r}", lambda d, r=r: d["releases"].pop(r))
        for name in ("digest", "vsa"):
            yield edit(
                f"another {name}", lambda d, r=r, n=name: d["releases"][r].update({n: f"sha256:{OTHER}"})
            )
        for name in ("name", "version"):
            yield edit(f"another {name}", lambda d, r=r, n=name: d["releases"][r].update({n: "x"}))
        yield edit("no labels", lambda d, r=r: d["releases"][r].update(labels=[]))
        for t, entry in enumerate(release["tuples"]):
            here = f"release {r} tuple {t}"
            yield edit(f"{here} dropped", lambda d, r=r, t=t: d["releases"][r]["tuples"].pop(t))
            for path, expect in entry["expect"].items():
                value = expect.get("exactly", OTHER)

                def put(d, new, r=r, t=t, path=path):
                    d["releases"][r]["tuples"][t]["expect"][path] = new

                def drop(d, r=r, t=t, path=path):
                    del d["releases"][r]["tuples"][t]["expect"][path]

                waiver = next(iter(document["waivers"].values()))
                yield edit(f"{here} {path} dropped", drop)
                yield edit(f"{here} {path} another", lambda d, put=put: put(d, {"exactly": OTHER}))
                yield edit(
                    f"{here} {path} widened", lambda d, put=put, v=value: put(d, {"one_of": [v, OTHER]})
                )
                if expect != waiver:
                    yield edit(f"{here} {path} waived", lambda d, put=put, w=waiver: put(d, w))
                yield edit(f"{here} {path} a number", lambda d, put=put: put(d, {"at_least": 0}))
    for r in range(len(document["releases"]) - 1):
        yield edit("tuples swapped between releases", lambda d, r=r: _swap(d, r))
    for p, rule in enumerate(document["platforms"]):
        yield edit("another root", lambda d, p=p: d["platforms"][p].update(roots=["other"]))
        yield edit("one more root", lambda d, p=p: d["platforms"][p]["roots"].append("zzz"))
        for path in rule["require"]:
            yield edit(f"no {path}", lambda d, p=p, path=path: d["platforms"][p]["require"].pop(path))
            waived = next(iter(document["waivers"].values()))
            yield edit(
                f"{path} waived",
                lambda d, p=p, path=path, w=waived: d["platforms"][p]["require"].update({path: w}),
            )
    for k in range(len(document["keys"])):
        yield edit("a key dropped", lambda d, k=k: d["keys"].pop(k))
        yield edit("another artifact", lambda d, k=k: d["keys"][k].update(artifact="other"))
    yield edit("one more key", lambda d: d["keys"].append({"key": "zz/zz/zz", "artifact": "x"}))
    for seconds in (1, 299, 301, 3600):
        yield edit(f"age {seconds}", lambda d, s=seconds: d.update(max_age_seconds=s))
    for at in ("2027-12-31T23:59:59Z", "2028-01-01T00:00:01Z", "2099-01-01T00:00:00Z"):
        yield edit(f"end {at}", lambda d, at=at: d.update(not_after=at))
    for name in ("policy", "channel"):
        yield edit(f"another {name}", lambda d, n=name: d.update({n: "debug"}))
    yield edit("another policy file", lambda d: d.update(policy_digest=f"sha256:{OTHER}"))
    yield edit("no waivers", lambda d: d.update(waivers={}))
    yield edit("no residuals", lambda d: d.update(residuals=[]))


def _swap(document: dict, r: int) -> None:
    one, two = document["releases"][r], document["releases"][r + 1]
    one["tuples"], two["tuples"] = two["tuples"], one["tuples"]


# What a mutated Rego line may become; each pattern is applied once at each place where it stands.
_SWAPS = (
    (" == ", (" != ", " >= ")),
    (" <= ", (" >= ", " != ")),
    (" >= ", (" <= ",)),
    (" > 0", (" >= 0", " > 1")),
    (":= 96", (":= 2", ":= 3", ":= 32", ":= 0")),
    (":= 97", (":= 2", ":= 0")),
    (":= 2 ", (":= 3 ", ":= 97 ", ":= 258 ", ":= 0 ")),
    (":= 3 ", (":= 2 ", ":= 96 ", ":= 259 ")),
    (":= false", (":= true",)),
    ("contains tuple.release if", ("contains tuple.release if true; x := 1; x > 1 else := 1 if",)),
    ('"cpu0"', ('"cpu1"', '"gpu0"')),
    ("submods.cpu0", ("submods.cpu1", "submods.gpu0")),
    ("input.tpm.", ("input.sample.", "tuple.")),
    ("tuple.", ("input.tpm.",)),
    ('"resource"', ('"pkcs11"',)),
    ('"affirming"', ('"warning"', '"none"')),
    ("is_string(", ("is_number(", "not is_string(")),
    ("some release in", ("every release in",)),
    (" in permitted", (' in {"x"}',)),
    ("== true", ("!= true", "== false")),
    ('"configuration": 2', ('"configuration": 3',)),
    ('"executables": 3', ('"executables": 2',)),
    ("now_ns - ", ("now_ns + ",)),
    ("* 1000000000", ("* 1000000",)),
)
_NUMBER = re.compile(r"\d{10,}")


def rego(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Every line dropped, every operator and constant of a line changed."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith("#"):
            continue

        def put(new, number=number):
            return "\n".join(new if i == number else old for i, old in enumerate(lines) if new or i != number)

        here = f"{name}:{number + 1}"
        yield f"{here} dropped: {line.strip()}", put("")
        for old, others in _SWAPS:
            for new in others:
                for at in range(line.count(old)):
                    changed = _nth(line, old, new, at)
                    yield f"{here}: {changed.strip()}", put(changed)
        for match in _NUMBER.finditer(line):
            for other in (int(match[0]) * 2, int(match[0]) // 2):
                changed = line[: match.start()] + str(other) + line[match.end() :]
                yield f"{here}: {changed.strip()}", put(changed)
        for match in re.finditer(r'"sha256:([0-9a-f]{64})"', line):
            wrong = line.replace(match[1], OTHER)
            yield f"{here}: {wrong.strip()}", put(wrong)
            yield f"{here} twice: {wrong.strip()}", put(f"{line}\n{wrong}")


def _nth(line: str, old: str, new: str, at: int) -> str:
    parts = line.split(old)
    return old.join(parts[: at + 1]) + new + old.join(parts[at + 1 :])


def trustee(files: Mapping[str, bytes]) -> Iterator[Mutant]:
    for name in ("as_default_cpu.rego", "resource_policy.rego"):
        for what, text in rego(name, files[name].decode()):
            yield what, {**files, name: text.encode()}
        backdoor = (
            "allow if input.iat == 1\n"
            if "resource" in name
            else f'matched contains "x" if input.tpm.pcr04 == "{OTHER}"\n'
        )
        yield f"{name}: a backdoor", {**files, name: files[name] + backdoor.encode()}
    for name in sorted(files):
        if name.startswith("rvps_"):
            yield f"{name} missing", {other: data for other, data in files.items() if other != name}
            for what, data in _messages(files[name]):
                yield f"{name}: {what}", {**files, name: data}


def _messages(data: bytes) -> Iterator[tuple[str, bytes]]:
    message = json.loads(data)
    payload = json.loads(base64.b64decode(message["payload"]))
    ((name, rows),) = payload.items()

    def made(held: object, **fields: str) -> bytes:
        text = base64.b64encode(json.dumps({name: held}).encode()).decode()
        return json.dumps({**message, "payload": text, **fields}).encode()

    yield "another type", made(rows, type="swid")
    yield "another version", made(rows, version="0.2.0")
    yield "no tuples", made([])
    for number, row in enumerate(rows):
        rest = [*rows[:number], *rows[number + 1 :]]
        yield f"tuple {number} dropped", made(rest)
        for path, value in row.items():
            yield f"tuple {number} without {path}", made([*rest, {k: v for k, v in row.items() if k != path}])
            for other in (OTHER, None, 0, value[::-1]):
                if other == value:
                    continue
                yield f"tuple {number} {path} {other}", made([*rest, {**row, path: other}])
                yield f"one more tuple, {path} {other}", made([*rows, {**row, path: other}])
