"""The actions of AWS KMS, and which of them give away what a key protects.

Source: AWS Service Authorization Reference, "Actions, resources, and condition keys for AWS Key Management Service".
"""

from __future__ import annotations

# Actions on a key that take a Recipient with an attestation document; the answer is for the attested machine alone.
ATTESTED = ("kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKey", "kms:GenerateDataKeyPair")
# The one action that a workload gets.
RELEASE = "kms:Decrypt"
# No attestation document can come with these, and each gives away what the key protects, or lets others do so.
BYPASSES = {
    "kms:CreateGrant": "a grant lets its grantee decrypt without any attestation document",
    "kms:ReEncryptFrom": "what this key protects is encrypted again under a key that anybody may own",
    "kms:ReplicateKey": "the replica has a key policy of its own",
    "kms:PutKeyPolicy": "this policy can be replaced",
    "kms:GenerateMac": "the key is used without an attestation document",
    "kms:Sign": "the key is used without an attestation document",
}
# What administrators get: nothing here shows anything that the key protects.
ADMINISTRATION = (
    "kms:CancelKeyDeletion", "kms:DescribeKey", "kms:DisableKey", "kms:EnableKey", "kms:EnableKeyRotation",
    "kms:Encrypt", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListGrants", "kms:ListKeyPolicies",
    "kms:ListResourceTags", "kms:PutKeyPolicy", "kms:RevokeGrant", "kms:ScheduleKeyDeletion",
)  # fmt: skip
_OTHERS = (
    "kms:CreateAlias", "kms:DeleteAlias", "kms:DeleteImportedKeyMaterial", "kms:DisableKeyRotation",
    "kms:GenerateDataKeyPairWithoutPlaintext", "kms:GenerateDataKeyWithoutPlaintext", "kms:GetParametersForImport",
    "kms:GetPublicKey", "kms:ImportKeyMaterial", "kms:ListKeyRotations", "kms:ReEncryptTo", "kms:RetireGrant",
    "kms:RotateKeyOnDemand", "kms:SynchronizeMultiRegionKey", "kms:TagResource", "kms:UntagResource",
    "kms:UpdateAlias", "kms:UpdateKeyDescription", "kms:UpdatePrimaryRegion", "kms:Verify", "kms:VerifyMac",
)  # fmt: skip
FUTURE = "kms:SomeFutureAction"  # what a wildcard will take in one day
ALL = tuple(sorted({*ATTESTED, *BYPASSES, *ADMINISTRATION, *_OTHERS, FUTURE}))
UNATTESTED = tuple(sorted(action for action in BYPASSES if action != "kms:PutKeyPolicy"))
DATA = (*ATTESTED, *UNATTESTED)
