"""The untrusted half: moves bytes between callers, enclave, disk and AWS. It holds no key and opens no message."""
