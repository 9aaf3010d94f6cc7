"""`python -P -m simulator kms`: the simulated service as a process of its own, and `issue` to make callers for it."""

import argparse
from datetime import UTC, datetime, timedelta
import hashlib
import json
from pathlib import Path
import signal
import sys
import threading

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.chain import Root
from owner.policy_document import MalformedPolicyError
from simulator.kms import accounts, tls, trail
from simulator.kms.server import KmsServer
from simulator.kms.service import SimulatedKms

REGION = "eu-central-1"
PARTITION = "simulated"


def read_root(path: Path) -> Root:
    """The trust anchor in a certificate file, DER or PEM. Raises: OSError, ValueError."""
    data = path.read_bytes()
    certificate = x509.load_pem_x509_certificate(data) if data.startswith(b"-----") else x509.load_der_x509_certificate(data)
    return Root(partition=PARTITION, sha256=hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest())


def _now() -> datetime:
    return datetime.now(UTC)


def open_service(state: Path, roots: tuple[Root, ...], *, region: str = REGION, service: type[SimulatedKms] = SimulatedKms) -> SimulatedKms:
    """`service` on a state directory, with the machine's clock and its log in that directory."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    return service(state=state, region=region, roots=roots, clock=_now, log=trail.to_file(state / trail.TRAIL))


def _serve(args: argparse.Namespace, service: type[SimulatedKms]) -> int:
    host, _, port = args.listen.rpartition(":")
    if host not in {"127.0.0.1", "localhost"} or not port.isdigit():
        print("kms: the simulator listens on loopback alone: --listen 127.0.0.1:PORT", file=sys.stderr)
        return 2
    try:
        roots = tuple(read_root(path) for path in args.root or [args.state / "root.der"])
    except (OSError, ValueError):
        print("kms: no root certificate: give --root FILE, the root that attestation documents chain to", file=sys.stderr)
        return 2
    names = tuple(args.name or [f"kms.{args.region}.amazonaws.com", "localhost", "127.0.0.1"])
    server = KmsServer(
        open_service(args.state, roots, region=args.region, service=service), tls.server_context(args.state, names), (host, int(port))
    ).start()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    print(f"https://127.0.0.1:{server.port}", flush=True)
    ended.wait()
    server.stop()
    return 0


def _issue(args: argparse.Namespace) -> int:
    expires = _now() + timedelta(seconds=args.lifetime) if args.lifetime else None
    try:
        texts = [path.read_text(encoding="utf-8") for path in args.identity_policy]
        access = accounts.issue(args.state, args.arn, identity=texts, expires=expires)
    except (OSError, ValueError, MalformedPolicyError) as error:
        print(f"kms issue: {error}", file=sys.stderr)
        return 2
    issued: dict[str, object] = {"Version": 1, "AccessKeyId": access.access_key_id, "SecretAccessKey": access.secret_access_key}
    if access.session_token is not None:
        issued["SessionToken"] = access.session_token
    if expires is not None:
        issued["Expiration"] = expires.isoformat()
    print(json.dumps(issued))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -P -m simulator kms", description="a KMS that judges attestation and key policies, on loopback"
    )
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="keys, callers, log and TLS authority live here")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="loopback address (default: a free port)")
    parser.add_argument("--root", type=Path, action="append", metavar="FILE", help="root of attestation documents (default: DIR/root.der)")
    parser.add_argument("--region", default=REGION, help=f"default: {REGION}")
    parser.add_argument(
        "--name", action="append", metavar="HOST", help="name in the TLS certificate (default: KMS's own, localhost, 127.0.0.1)"
    )
    return parser


def _issue_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -P -m simulator kms issue", description="make a caller; prints what credential_process prints"
    )
    parser.add_argument("--state", type=Path, required=True, metavar="DIR")
    parser.add_argument("--arn", required=True, help="the caller: a root user, IAM user, role or role session")
    parser.add_argument(
        "--identity-policy", type=Path, action="append", default=[], metavar="FILE", help="an identity policy of the caller"
    )
    parser.add_argument(
        "--lifetime", type=int, default=0, metavar="SECONDS", help="after which ExpiredTokenException is answered (default: never)"
    )
    return parser


def main(argv: list[str], service: type[SimulatedKms] = SimulatedKms) -> int:
    """Serve until terminated, or `issue` a caller. 0 done, 2 usage."""
    try:
        if argv[:1] == ["issue"]:
            return _issue(_issue_parser().parse_args(argv[1:]))
        return _serve(_parser().parse_args(argv), service)
    except SystemExit as stop:
        return int(stop.code or 0)
