"""What can go wrong on the parent; nothing here ever carries bytes of a stream."""

from wire.feed import FeedError


class ParentError(Exception):
    """Anything that this package refuses or fails at."""


class ConfigError(ParentError):
    """The configuration is not usable; the text names the key and says what was expected."""


class BindError(ParentError):
    """A listening endpoint cannot be opened."""


class DialError(ParentError):
    """An endpoint does not take the connection, or not in time."""


class EgressRefusedError(ParentError):
    """An allow-list entry leads to an address that it may not lead to (T22)."""


class CredentialsError(ParentError):
    """No usable role credentials; the text never holds any part of them."""


class LaunchError(ParentError):
    """nitro-cli failed, or answered what it should not."""


class SourceError(ParentError):
    """The feed's source cannot give what was asked for; `reason` is what the enclave is told."""

    def __init__(self, reason: FeedError, text: str = "") -> None:
        super().__init__(text or reason.name.lower().replace("_", " "))
        self.reason = reason
