"""A KMS that judges attestation and key policies as AWS documents it, fails closed, and says which statement decided.

For a world: `issue` makes callers, `open_service` the service, `KmsServer(service, server_context(...)).start()` serves it.
"""

from simulator.kms.accounts import Access, issue
from simulator.kms.command import main, open_service
from simulator.kms.server import KmsServer
from simulator.kms.service import SimulatedKms
from simulator.kms.tls import server_context

__all__ = ["Access", "KmsServer", "SimulatedKms", "issue", "main", "open_service", "server_context"]
