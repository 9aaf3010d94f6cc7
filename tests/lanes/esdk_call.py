"""`esdk_call.py encrypt|decrypt KEY_ARN CONTEXT FRAME <INPUT >OUTPUT` in an environment of aws-encryption-sdk, KMS as the variables say."""

import json
import sys

import aws_encryption_sdk
from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy


def main(verb: str, key_arn: str, context: str, frame: str) -> None:
    """One message from standard input to standard output."""
    client = aws_encryption_sdk.EncryptionSDKClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
    provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key_arn])
    if verb == "encrypt":
        output, _ = client.encrypt(
            source=sys.stdin.buffer.read(),
            key_provider=provider,
            encryption_context=json.loads(context),
            algorithm=Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
            frame_length=int(frame),
        )
    else:
        output, header = client.decrypt(source=sys.stdin.buffer.read(), key_provider=provider)
        if header.encryption_context != json.loads(context):
            raise SystemExit("another encryption context than expected")
    sys.stdout.buffer.write(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
