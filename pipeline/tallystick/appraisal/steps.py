"""What to do about a finding: one sentence for each code. For operators, and safe for a refused workload too."""

from __future__ import annotations

from types import MappingProxyType

_STEPS = MappingProxyType(
    {
        "evidence.challenge.future": "set the broker's clock right: the challenge is of a later time than the decision",
        "evidence.device.absent": "show evidence of the devices that the policy asks for",
        "evidence.device.not-allowed": "leave the device's evidence out, or name its platform in the policy",
        "evidence.expired": "renew certificates and collateral, then attest again",
        "evidence.kind.not-allowed": "run on a platform that the policy names, or add this one to the policy",
        "evidence.not-yet-valid": "compare the clocks of attester, broker and certificate authority",
        "evidence.report-data.mismatch": "attest in this session, with evidence over its own nonce and public key",
        "evidence.root.absent": "send the certificate chain, or have its root pinned in the trust file",
        "evidence.root.not-allowed": "use hardware whose root the policy names; a development root opens no production",
        "evidence.stale": "attest again: the policy takes no evidence of this age",
        "key.channel": "ask the broker of the key's own channel; a key keeps its channel for life",
        "key.destroyed": "take the next tag: this key is gone for good",
        "key.missing": "make the key (`tally broker key generate`) in this channel",
        "key.unnamed": "name the key in a policy of the channel, compile and promote it",
        "policy.expired": "compile the policy again and promote it",
        "policy.key-twice": "leave the key to one policy, compile and promote",
        "policy.key.unknown": "ask for a key that the policy names",
        "policy.no-release": "promote a release, then compile the policy and promote it",
        "policy.platform.unknown": "add the platform to the policy, compile and promote",
        "release.channel.expired": "have the channel's metadata signed anew (`tally channel refresh`)",
        "release.removed": "move the workload to a release that the channel lists",
        "release.revoked": "move the workload to a release that nobody has revoked",
        "vault.not-genuine": "restore the key's file from a backup, and find out who changed it",
        "vault.sealer": "see why the token or service that seals the vault does not answer",
    }
)
_ENDINGS = MappingProxyType(
    {
        "waiver-expired": "meet the requirement, or have the waiver decided anew, then compile and promote",
        "absent": "send evidence that says this claim",
        "type": "send the claim in the type that the platform's verifier gives it",
        "low": "update the component to the version that the policy asks for",
        "denied": "leave the value that the policy denies",
        "mismatch": "boot the release that is promoted, or promote the one that runs",
    }
)
_ELSE = "ask the broker's operator, with the decision's identifier"


def next_step(code: str) -> str:
    """Return what to do about a finding with ``code``. It names no reference value."""
    if code in _STEPS:
        return _STEPS[code]
    return _ENDINGS.get(code.rpartition(".")[2], _ELSE)
