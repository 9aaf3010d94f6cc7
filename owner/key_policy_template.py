"""The key with its policy as infrastructure code: a CloudFormation template, or Terraform in its JSON syntax.

Both hold the policy as values, not as text in a text, so that the document that is deployed can be read back and judged.
"""

import json

from owner.key_policy import Inputs, Json, document, generate

DESCRIPTION = "Wraps the data keys of sealed models; released to the measured enclave alone"
DELETION_DAYS = 30


def cloudformation(inputs: Inputs) -> str:
    """A template with one AWS::KMS::Key that is kept when the stack is deleted, and its ARN as an output."""
    key: Json = {
        "Type": "AWS::KMS::Key",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {
            "Description": DESCRIPTION,
            "KeySpec": "SYMMETRIC_DEFAULT",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "MultiRegion": False,
            "PendingWindowInDays": DELETION_DAYS,
            "KeyPolicy": document(inputs),
        },
    }
    template: Json = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": DESCRIPTION,
        "Resources": {"ModelKey": key},
        "Outputs": {"KeyArn": {"Description": "goes into the manifest", "Value": {"Fn::GetAtt": ["ModelKey", "Arn"]}}},
    }
    return json.dumps(template, indent=2) + "\n"


def terraform(inputs: Inputs) -> str:
    """A `.tf.json` file with one aws_kms_key. Its strings are templates to Terraform: `${` and `%{` never occur in this policy."""
    policy = generate(inputs)
    if "${" in policy or "%{" in policy:
        raise ValueError("the policy holds what Terraform would interpolate")
    resource: Json = {
        "description": DESCRIPTION,
        "customer_master_key_spec": "SYMMETRIC_DEFAULT",
        "key_usage": "ENCRYPT_DECRYPT",
        "multi_region": False,
        "deletion_window_in_days": DELETION_DAYS,
        "policy": policy,
        "lifecycle": {"prevent_destroy": True},
    }
    template: Json = {
        "resource": {"aws_kms_key": {"model": resource}},
        "output": {"key_arn": {"description": "goes into the manifest", "value": "${aws_kms_key.model.arn}"}},
    }
    return json.dumps(template, indent=2) + "\n"
