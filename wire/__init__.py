"""The bytes that caller, parent and enclave agree on: pure functions and values, no I/O, no clock, no environment."""
