"""Everything that is pretend: a root of its own, a security module, KMS and hypervisor that behave as AWS's do."""

import os

# ONNX Runtime's wheels since 1.29 hold a telemetry client that starts when it is imported; see `enclave.engine`.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
