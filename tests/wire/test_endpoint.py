"""Endpoints as text: one value, one spelling; what is none says what was expected."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from wire.endpoint import Endpoint, Tcp, Unix, UnixConnect, Vsock, parse, render
from wire.errors import MalformedEndpointError

KNOWN: dict[str, Endpoint] = {
    "vsock:16:7000": Vsock(16, 7000),
    "vsock:4294967294:0": Vsock(4294967294, 0),
    "unix:/run/a:b": Unix("/run/a:b"),
    "unix-connect:/run/v.sock:7000": UnixConnect("/run/v.sock", 7000),
    "unix-connect:a:b:1": UnixConnect("a:b", 1),
    "tcp:localhost:8443": Tcp("localhost", 8443),
    "tcp:[::1]:0": Tcp("::1", 0),
    "tcp:a:1?proxy=p:3128": Tcp("a", 1, ("p", 3128)),
    "tcp:a:1?proxy=[fe80::1]:3128": Tcp("a", 1, ("fe80::1", 3128)),
}


@pytest.mark.parametrize("text", KNOWN)
def test_endpoint_comes_back(text: str) -> None:
    """Text to value and back."""
    assert parse(text) == KNOWN[text]
    assert render(KNOWN[text]) == text


BAD = [
    "", "vsock", "vsock:", "vsock:1", "vsock::1", "vsock:1:", "vsock:a:1", "vsock:1:-1", "vsock:4294967295:1", "vsock:1:4294967295",
    "vsock:1:2:3", "vsock:+1:2", "vsock: 1:2", "vsock:٣:2", "vsock:1:00000000001", "VSOCK:1:2",
    "unix", "unix:", "unix:\0", "unix-connect:", "unix-connect:/a", "unix-connect:/a:", "unix-connect::1", "unix-connect:/a:x",
    "tcp:", "tcp:a", "tcp::1", "tcp:a:", "tcp:a:65536", "tcp:::1:1", "tcp:[::1]", "tcp:[]:1", "tcp:a b:1", "tcp:a/b:1", "tcp:u@a:1",
    "tcp:a?b:1", "tcp:a:1?proxy=", "tcp:a:1?proxy=b", "tcp:a:1?proxy=b?proxy=c:1", "tcp:a:1?other=b:1", "tcp:a\n:1", "udp:a:1",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_text_that_is_no_endpoint_is_refused(text: str) -> None:
    """Unknown kinds, missing parts, numbers out of range, hosts that could be more than a host."""
    with pytest.raises(MalformedEndpointError):
        parse(text)


@given(
    st.text(max_size=40) | st.from_regex(r"(vsock|unix|unix-connect|tcp):[\[\]a-z0-9:.?=/-]{0,30}(\?proxy=[a-z0-9:]{0,9})?", fullmatch=True)
)
def test_any_text_gives_an_endpoint_or_our_error(text: str) -> None:
    """Any text: an endpoint that renders to what parses to it, or MalformedEndpointError."""
    try:
        endpoint = parse(text)
    except MalformedEndpointError:
        return
    assert parse(render(endpoint)) == endpoint
