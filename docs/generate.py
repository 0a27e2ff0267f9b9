"""Write what comes from the program itself: commands, exit codes, platforms, and the targets in the policy's schema.

``make docs`` runs it; tests/test_docs.py fails when a page differs from what this writes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent


def exit_codes() -> str:
    """Return the page of exit codes."""
    from tallystick.core.errors import Exit

    rows = "".join(f"| {int(code)} | {code.name} | {code.meaning} |\n" for code in Exit)
    return (
        "# Exit codes\n\nMade from `pipeline/tallystick/core/errors.py` by `make docs`.\n\n"
        "| code | name | what it tells the caller |\n|---|---|---|\n" + rows + "\n"
        "With `--json`, an error is also one JSON document on stdout:\n\n"
        '```json\n{"error": {"code": "<stable-code>", "exit": 6, "message": "…",\n'
        '           "findings": [{"code": "…", "where": "…", "want": "…", "got": "…", "message": "…"}]}}\n'
        "```\n\n"
        "Ctrl-C ends a command with 130 (128 + SIGINT), and nothing half-written stays behind.\n"
    )


def reference() -> str:
    """Return the page of commands: each one's own ``--help``, in the order of ``tally --help``."""
    os.environ["COLUMNS"] = "100"
    os.environ["TERMINAL_WIDTH"] = "100"
    import typer.main

    from tallystick.cli.app import app

    root: Any = typer.main.get_command(app)
    parts = ["# Command reference\n\nMade from the program's own help by `make docs`.\n"]

    def describe(command: Any, words: list[str], parent: Any) -> None:
        context = command.make_context(words[-1], [], parent=parent, resilient_parsing=True)
        context.info_name = words[-1]
        help_text = command.get_help(context).strip()
        parts.append(f"\n## {' '.join(words)}\n\n```text\n{help_text}\n```\n")
        if hasattr(command, "list_commands"):
            for name in command.list_commands(context):
                describe(command.get_command(context, name), [*words, name], context)

    describe(root, ["tally"], None)
    return "".join(parts)


def policy_schema() -> str:
    """Return the schema of policies with the platforms and targets of this version."""
    from tallystick.compile.targets.registry import backend, names
    from tallystick.policy.platforms import platforms

    place = DOCS / "schemas" / "policy.schema.json"
    schema: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    waivers = {"type": "array", "items": {"$ref": "#/$defs/waiver"}, "minItems": 0}
    schema["properties"]["targets"]["items"] = {
        "oneOf": [
            {
                "type": "object",
                "properties": {
                    "target": {"const": name},
                    **backend(name).schema["properties"],
                    "waivers": waivers,
                },
                "required": sorted(["target", *backend(name).schema["required"]]),
                "additionalProperties": False,
            }
            for name in names()
        ]
    }
    machine = schema["$defs"]["platforms"]["items"]["properties"]
    machine["platform"]["enum"] = [known.name for known in platforms() if not known.device]
    machine["devices"]["items"]["properties"]["device"]["enum"] = [k.name for k in platforms() if k.device]
    return json.dumps(schema, indent=2) + "\n"


def platforms_page() -> str:
    """Return the page of platforms: what their evidence says, and what a policy asks of it unless told otherwise."""
    from tallystick.policy.document import expectation_document
    from tallystick.policy.platforms import platforms

    parts = [
        "# Platforms and their claims\n\nMade from `pipeline/tallystick/policy/hardware.py` by `make docs`. "
    ]
    parts.append("[policies.md](policies.md) says how a policy asks something of a claim.\n")
    for known in platforms():
        what = "a device beside a machine" if known.device else f"evidence `{known.evidence_kind}`"
        parts.append(
            f"\n## `{known.name}`\n\n{what}\n\n| claim | type | unless the policy says otherwise |\n|---|---|---|\n"
        )
        strict, debug = dict(known.strict), dict(known.debug_off)
        for path, kind in (*known.pinned, *known.claims):
            said = "not asked"
            if path in known.registers:
                said = "**register**: each tuple pins it" + (
                    ", never to zeros" if path in known.never_zero else ""
                )
            elif path in debug:
                said = f"**debug off**: `{json.dumps(debug[path].value)}`"
            elif path in strict:
                said = f"`{json.dumps(expectation_document(strict[path]))}`"
            elif path in known.stated:
                said = "**the policy must say**"
            parts.append(f"| `{path}` | {kind.want} | {said} |\n")
        for one in known.places:
            parts.append(f"\nPlace: `{one.name}` is the claim `{one.path}` ({one.strength.value}).\n")
    return "".join(parts)


def openapi_document() -> str:
    """Return the broker's OpenAPI document."""
    from tallystick.broker.openapi import document

    return json.dumps(document(), indent=2) + "\n"


PAGES = {
    "schemas/broker.openapi.json": openapi_document,
    "reference.md": reference,
    "exit-codes.md": exit_codes,
    "platforms.md": platforms_page,
    "schemas/policy.schema.json": policy_schema,
}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
