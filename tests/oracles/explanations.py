"""Why another verifier and this one differ: one line for each kind of difference; anything else fails the lane."""

from attestation.checks import Check

# Name: (difference, why).
EXPLANATIONS: dict[str, tuple[str, str]] = {
    "lenient-encoding": (
        "accepts what 1xx and 2xx refuse",
        "a lenient CBOR decoder: trailing bytes, other tags, long forms, chunked strings, duplicate keys; most is outside the signature",
    ),
    "payload-unchecked": (
        "accepts what 3xx refuses",
        "types, bounds and NitroTPM are not looked at: the caller of such a library has to",
    ),
    "root-elsewhere": (
        "accepts a bundle without the root (401)",
        "the pinned root is found by itself; what was sent in its place is ignored",
    ),
    "any-order": (
        "accepts shuffled, extra or doubled certificates (411, 413)",
        "a path is found through what is there, the rest is ignored",
    ),
    "other-algorithms": (
        "accepts ecdsa-with-SHA256 or SHA512, or P-256 in the chain (403, 404)",
        "no restriction to the Nitro PKI's one suite",
    ),
    "leaf-unchecked": (
        "accepts a CA, or a key that may not sign, as leaf (409, 410)",
        "no rules for the leaf: the stock ones refuse every genuine one",
    ),
    "absent-key-usage": ("accepts a CA without keyUsage (408)", "absence means no restriction to OpenSSL"),
    "trailing-certificate-byte": ("accepts a byte after a certificate (402)", "OpenSSL's parser stops at the end of the certificate"),
    "shorter-fields": (
        "refuses genuine documents with a nonce of 1,024 bytes or an empty user_data",
        "the lengths of AWS's text, which its own documents exceed",
    ),
}

_LENGTHS = ("nonce length", "user data length")


def explained(oracle: str, check: Check | None, verdict: str) -> str:
    """The name of the explanation of one difference, empty where there is none."""
    if check is None:
        return "shorter-fields" if oracle == "evervault" and any(text in verdict for text in _LENGTHS) else ""
    match check:
        case Check.ROOT:
            return "root-elsewhere"
        case Check.CHAIN_NAMES | Check.CHAIN_EXACT:
            return "any-order"
        case Check.CERTIFICATE_KEY | Check.CERTIFICATE_ALGORITHM:
            return "other-algorithms"
        case Check.LEAF_BASIC_CONSTRAINTS | Check.LEAF_KEY_USAGE:
            return "leaf-unchecked"
        case Check.CA_KEY_USAGE if oracle == "pyopenssl":
            return "absent-key-usage"
        case Check.CERTIFICATE_ENCODING if oracle == "pyopenssl":
            return "trailing-certificate-byte"
        case _ if check < Check.COSE_SIGNATURE:
            return "lenient-encoding"
        case _ if Check.PAYLOAD_MAP <= check <= Check.NITROTPM:
            return "payload-unchecked"
        case _:
            return ""
