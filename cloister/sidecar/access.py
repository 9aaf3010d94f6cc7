"""Who may talk to a local listener: an exact Host (against DNS rebinding) and a bearer token (against other users). Pure."""

from dataclasses import dataclass, field
import hmac

from cloister.sidecar.refusal import RefusedError
from wire.errors import Code

TOKEN_MIN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`hosts`: the values of the Host header that are accepted (empty: any, for a Unix socket). `token`: None for none."""

    hosts: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)

    def check_host(self, host: str | None) -> None:
        """Raises: RefusedError."""
        if self.hosts and host not in self.hosts:
            raise RefusedError(Code.HOST_REFUSED)

    def check_token(self, authorization: str | None) -> None:
        """The value of an Authorization header, `Bearer TOKEN`. Raises: RefusedError."""
        if self.token is None:
            return
        kind, _, given = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise RefusedError(Code.TOKEN_REQUIRED)
