"""Everything that is pretend: a root of its own, a security module, KMS and hypervisor that behave as AWS's do."""
