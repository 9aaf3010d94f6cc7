"""The vsock ports of both sides; the parent's are the only ones an enclave ever dials."""

PARENT_CID = 3  # as an enclave sees its parent instance

SESSION = 7000  # enclave listens: sealed sessions
FEED = 7001  # parent listens: manifest and sealed artifacts (`wire.feed`)
STATUS = 7002  # parent listens: boot reports and counters (`wire.feed`)
CREDENTIALS = 7003  # parent listens: the role's AWS credentials (`wire.feed`)
EGRESS = 7010  # parent listens: EGRESS + n forwards to entry n of its allow-list; entry 0 is KMS

HEARTBEAT = 9000  # the bootstrap's own, answered by nitro-cli (on EC2) or the harness, never by `parent`
HEARTBEAT_BYTE = 0xB7
