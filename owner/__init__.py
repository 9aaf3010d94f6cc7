"""The model owner and the image publisher: seal models, sign manifests, issue credentials, write key policies, build images."""
