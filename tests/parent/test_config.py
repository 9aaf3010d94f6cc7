"""The configuration: every key known, every number bounded, every mistake named."""

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st
import pytest

from parent.config import CONFIG_MAX, Config, DirectoryFeed, Egress, FileCredentials, ImdsCredentials, Limits, S3Feed, parse
from parent.errors import ConfigError
from wire.endpoint import Tcp, Unix, UnixConnect, Vsock

MINIMAL = """
[enclave]
session = "vsock:16:7000"
cid = 16
[listen]
sessions = ["tcp:0.0.0.0:7443"]
feed = "vsock:3:7001"
status = "vsock:3:7002"
credentials = "vsock:3:7003"
[feed]
directory = "/srv/feed"
"""
EGRESS = '[[egress]]\nlisten = "vsock:3:7010"\nto = "kms.eu-central-1.amazonaws.com:443"\n'
LAUNCH = "[launch]\neif = 'a'\ncpus = 2\nmemory_mib = 512\n"


def test_a_minimal_document_gets_the_defaults() -> None:
    """What is not said has a safe default: IMDS, no metrics, no egress, no launch, the limits of the table."""
    config = parse(MINIMAL)
    assert config == Config(
        sessions=(Tcp("0.0.0.0", 7443),),  # noqa: S104 - parsed, not bound
        enclave=Vsock(16, 7000),
        cid=16,
        feed_listen=Vsock(3, 7001),
        status_listen=Vsock(3, 7002),
        credentials_listen=Vsock(3, 7003),
        metrics_listen=None,
        feed=DirectoryFeed(directory="/srv/feed"),
        credentials=ImdsCredentials(),
        egress=(),
        launch=None,
        limits=Limits(),
    )


def test_everything_can_be_said() -> None:
    """Every key is read into its value."""
    text = MINIMAL.replace('directory = "/srv/feed"', 'bucket = "b"\nprefix = "/p/"\nregion = "eu-central-1"') + EGRESS
    text += 'private = ["10.0.3.7", "10.0.4.0/24"]\n[credentials]\nsource = "file"\npath = "/run/c.json"\n'
    text += '[launch]\neif = "a.eif"\ncpus = 2\nmemory_mib = 1024\n[limits]\nsessions = 7\nidle_seconds = 30\nhandshake_seconds = 2.5\n'
    config = parse(text.replace("[feed]", 'metrics = "tcp:127.0.0.1:9464"\n[feed]'))
    assert config.feed == S3Feed(bucket="b", prefix="p", region="eu-central-1")
    assert config.credentials == FileCredentials(path="/run/c.json")
    assert config.egress == (
        Egress(listen=Vsock(3, 7010), host="kms.eu-central-1.amazonaws.com", port=443, private=("10.0.3.7", "10.0.4.0/24")),
    )
    assert config.metrics_listen == Tcp("127.0.0.1", 9464)
    assert (config.limits.sessions, config.limits.idle_seconds, config.limits.handshake_seconds) == (7, 30.0, 2.5)
    assert config.launch is not None
    assert (config.launch.nitro_cli, config.launch.name, config.launch.memory_mib) == ("nitro-cli", "cloister", 1024)


def test_a_simulated_world_needs_no_cid() -> None:
    """Unix sockets on every side: nobody's CID to check."""
    text = MINIMAL.replace("cid = 16", "").replace("vsock:16:7000", "unix-connect:/v:7000")
    config = parse(text.replace("vsock:3:", "unix:/run/"))
    assert config.cid is None
    assert config.enclave == UnixConnect("/v", 7000)
    assert config.feed_listen == Unix("/run/7001")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "listen.sessions"),
        ("x = [", "not TOML"),
        (MINIMAL + "[nonsense]\n", "nonsense"),
        (MINIMAL + "[limits]\nsession = 1\n", "limits.session"),
        (MINIMAL + "[limits]\nsessions = 0\n", "limits.sessions"),
        (MINIMAL + "[limits]\nsessions = 1.5\n", "limits.sessions"),
        (MINIMAL + "[limits]\nsessions = true\n", "limits.sessions"),
        (MINIMAL + "[limits]\nhandshake_seconds = 61\n", "limits.handshake_seconds"),
        (MINIMAL + "[limits]\nidle_seconds = nan\n", "limits.idle_seconds"),
        (MINIMAL + "[credentials]\nsource = 'env'\n", "credentials.source"),
        (MINIMAL + "[credentials]\nsource = 'file'\n", "credentials.path"),
        (MINIMAL + "[credentials]\nsecret = 'x'\n", "credentials.secret"),
        (MINIMAL + "[launch]\neif = 'a'\ncpus = 0\nmemory_mib = 512\n", "launch.cpus"),
        (MINIMAL + "[launch]\neif = 'a'\ncpus = 2\nmemory_mib = 512\ndebug = true\n", "launch.debug"),
        (MINIMAL + EGRESS + "host = 'x'\n", "egress[0].host"),
        (MINIMAL + EGRESS.replace(":443", ":0"), "egress[0].to"),
        (MINIMAL + EGRESS.replace(":443", ""), "egress[0].to"),
        (MINIMAL + EGRESS.replace(":443", ":443?proxy=p:1"), "egress[0].to"),
        (MINIMAL + EGRESS + "private = ['ten']\n", "egress[0].private"),
        (MINIMAL + EGRESS + "private = 5\n", "egress[0].private"),
        ("egress = 5\n" + MINIMAL, "egress"),
        (MINIMAL + "[launch]\neif = 'a'\ncpus = true\nmemory_mib = 512\n", "launch.cpus"),
        (MINIMAL + "[limits]\nidle_seconds = 'x'\n", "limits.idle_seconds"),
        (MINIMAL + EGRESS.replace("vsock:3:7010", "tcp:127.0.0.1:7010"), "egress[0].listen"),
        (MINIMAL + EGRESS.replace("7010", "7001"), "same endpoint"),
        (MINIMAL.replace("cid = 16", ""), "enclave.cid"),
        (MINIMAL.replace("cid = 16", "cid = 17"), "enclave.cid"),
        (MINIMAL.replace("cid = 16", "cid = 3"), "enclave.cid"),
        (MINIMAL.replace('"vsock:16:7000"', '"tcp:127.0.0.1:7000"'), "enclave.session"),
        (MINIMAL.replace('["tcp:0.0.0.0:7443"]', "[]"), "listen.sessions"),
        (MINIMAL.replace("tcp:0.0.0.0:7443", "vsock:3:7443"), "listen.sessions"),
        (MINIMAL.replace("vsock:3:7002", "tcp:127.0.0.1:7002"), "listen.status"),
        (MINIMAL.replace('directory = "/srv/feed"', ""), "feed"),
        (MINIMAL.replace('directory = "/srv/feed"', 'directory = "a"\nbucket = "b"'), "feed.bucket"),
        (MINIMAL.replace("[feed]", "[[feed]]"), "feed"),
        ("#" * (CONFIG_MAX + 1), "longer"),
        (MINIMAL.replace('"/srv/feed"', "5"), "feed.directory"),
        (MINIMAL.replace('"/srv/feed"', '""'), "feed.directory"),
        (MINIMAL.replace('"/srv/feed"', '"a\\u0000b"'), "feed.directory"),
        (MINIMAL.replace("cid = 16", "cid = true"), "enclave.cid"),
        (MINIMAL.replace("cid = 16", 'cid = "16"'), "enclave.cid"),
        (MINIMAL.replace('["tcp:0.0.0.0:7443"]', '"tcp:0.0.0.0:7443"'), "listen.sessions"),
        (MINIMAL.replace('["tcp:0.0.0.0:7443"]', "[7443]"), "listen.sessions"),
        (MINIMAL.replace('["tcp:0.0.0.0:7443"]', str([f"unix:/{n}" for n in range(9)])), "listen.sessions"),
        (MINIMAL + EGRESS.replace("[[egress]]", "[egress]"), "egress"),
        (MINIMAL + "".join(EGRESS.replace("7010", str(7010 + n)) for n in range(17)), "egress"),
        (MINIMAL + '[limits]\nsessions = "7"\n', "limits.sessions"),
        (MINIMAL.replace("cid = 16", "").replace("vsock:16:7000", "unix:/e"), "enclave.cid"),
        (MINIMAL.replace("cid = 16", "").replace("vsock:16:7000", "unix:/e").replace("vsock:3:", "unix:/") + LAUNCH, "enclave.cid"),
    ],
)
def test_mistakes_are_refused_by_name(text: str, key: str) -> None:
    """A document with a mistake is refused with a text that names the key."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert key in str(caught.value)


@given(st.text(max_size=300))
def test_any_text_is_a_config_or_our_error(text: str) -> None:
    """Nothing but ConfigError comes out of the parser."""
    for document in (text, MINIMAL + text):
        try:
            parse(document)
        except ConfigError:
            continue


def test_every_limit_has_bounds() -> None:
    """No limit can be turned off: infinity and zero times are refused for each."""
    for each in fields(Limits):
        for value in ("inf", "-1", "1e12"):
            with pytest.raises(ConfigError):
                parse(f"{MINIMAL}[limits]\n{each.name} = {value}\n")
