"""The numbered checks of docs/verification.md: every refusal names the one that refused, by a number that never changes.

1xx encoding, 2xx COSE, 3xx payload, 4xx certificates and chain, 5xx time, 6xx appraisal, 7xx the evidence body,
8xx reference values and withdrawals, 9xx Enclave Image Files.
"""

from enum import IntEnum


class Check(IntEnum):
    """One rule of the profile; `reason` is its name for machines, `TEXT[check]` what holds where it passes."""

    DOCUMENT_SIZE = 101
    CBOR_TRUNCATED = 102
    CBOR_COUNT = 103
    CBOR_TRAILING_BYTES = 104
    CBOR_NOT_SHORTEST_FORM = 105
    CBOR_INDEFINITE_STRING = 106
    CBOR_RESERVED = 107
    CBOR_TAG = 108
    CBOR_FLOAT_OR_SIMPLE = 109
    CBOR_KEY_TYPE = 110
    CBOR_DUPLICATE_KEY = 111
    CBOR_DEPTH = 112
    CBOR_TEXT = 113
    CBOR_BREAK = 114

    COSE_ARRAY = 201
    COSE_PROTECTED = 202
    COSE_UNPROTECTED = 203
    COSE_PAYLOAD = 204
    COSE_SIGNATURE_SIZE = 205
    COSE_SIGNATURE = 206

    PAYLOAD_MAP = 301
    MODULE_ID = 302
    DIGEST = 303
    TIMESTAMP = 304
    PCRS = 305
    PCR_INDEX = 306
    PCR_LENGTH = 307
    PCR_REQUIRED = 308
    CERTIFICATE = 309
    CABUNDLE = 310
    CABUNDLE_ENTRY = 311
    PUBLIC_KEY = 312
    USER_DATA = 313
    NONCE_FIELD = 314
    NITROTPM = 315

    ROOT = 401
    CERTIFICATE_ENCODING = 402
    CERTIFICATE_KEY = 403
    CERTIFICATE_ALGORITHM = 404
    CRITICAL_EXTENSION = 405
    CA_BASIC_CONSTRAINTS = 406
    CA_PATH_LENGTH = 407
    CA_KEY_USAGE = 408
    LEAF_BASIC_CONSTRAINTS = 409
    LEAF_KEY_USAGE = 410
    CHAIN_NAMES = 411
    CHAIN_SIGNATURES = 412
    CHAIN_EXACT = 413

    BEGINS_AFTER_DOCUMENT = 501
    ENDED_BEFORE_DOCUMENT = 502
    CLOCK_BEHIND = 503
    EXPIRED = 504
    CLOCK_AHEAD = 505

    DEBUG = 601
    NONCE = 602
    MEASUREMENTS = 603
    OWNER = 604
    MANIFEST = 605
    SEQUENCE = 606
    ROLE = 607
    INSTANCE = 608
    MODULE_INSTANCE = 609
    BINDING_MISSING = 610
    BINDING = 611
    CONFIG_OWNER = 612
    CONFIG_MANIFEST = 613
    PURPOSE = 614
    AGE = 615
    MANIFEST_EXPIRED = 616
    ANYONE = 617
    PARTITION = 618
    WITHDRAWN = 619
    WITHDRAWALS_EXPIRED = 620

    EVIDENCE_BODY = 701

    REFERENCE_VALUES = 801
    REFERENCE_VALUES_SIGNATURE = 802
    REFERENCE_VALUES_OWNER = 803
    REFERENCE_VALUES_SEQUENCE = 804
    WITHDRAWALS = 805
    WITHDRAWALS_SIGNATURE = 806
    WITHDRAWALS_SEQUENCE = 807

    EIF_TRUNCATED = 901
    EIF_MAGIC = 902
    EIF_VERSION = 903
    EIF_HEADER_FLAGS = 904
    EIF_SECTION_COUNT = 905
    EIF_SECTION_PLACE = 906
    EIF_SECTION_SIZE = 907
    EIF_SECTION_TYPE = 908
    EIF_SECTION_FLAGS = 909
    EIF_SECTIONS = 910
    EIF_ORDER = 911
    EIF_TRAILING_BYTES = 912
    EIF_CRC = 913
    EIF_SIGNATURE_FORM = 914
    EIF_SIGNATURE_REGISTER = 915
    EIF_SIGNATURE_VALUE = 916
    EIF_SIGNATURE = 917
    EIF_SECTION_LIMIT = 918

    @property
    def reason(self) -> str:
        """The name for machines, stable like the number: `cbor-trailing-bytes`."""
        return self.name.lower().replace("_", "-")


TEXT: dict[Check, str] = {
    Check.DOCUMENT_SIZE: "the document has 1 to 32,768 bytes",
    Check.CBOR_TRUNCATED: "no CBOR item is cut short",
    Check.CBOR_COUNT: "no array or map announces more items than bytes are left",
    Check.CBOR_TRAILING_BYTES: "nothing follows the CBOR item",
    Check.CBOR_NOT_SHORTEST_FORM: "every length and number is in shortest form",
    Check.CBOR_INDEFINITE_STRING: "every string is in one piece",
    Check.CBOR_RESERVED: "no reserved additional information",
    Check.CBOR_TAG: "no tag but one optional 18 around the whole",
    Check.CBOR_FLOAT_OR_SIMPLE: "no float and no simple value but null",
    Check.CBOR_KEY_TYPE: "every map key is a text or an integer",
    Check.CBOR_DUPLICATE_KEY: "no map has a key twice",
    Check.CBOR_DEPTH: "nesting is at most 8 deep",
    Check.CBOR_TEXT: "every text is UTF-8",
    Check.CBOR_BREAK: "a break only ends an indefinite array or map",
    Check.COSE_ARRAY: "the envelope is a definite array of four",
    Check.COSE_PROTECTED: "the protected header is exactly a1013822 (ES384)",
    Check.COSE_UNPROTECTED: "the unprotected header is the empty map",
    Check.COSE_PAYLOAD: "the payload is a byte string of 1 to 16,384 bytes",
    Check.COSE_SIGNATURE_SIZE: "the signature is a byte string of 96 bytes",
    Check.COSE_SIGNATURE: "the leaf certificate's key signed the received bytes",
    Check.PAYLOAD_MAP: "the payload is a map",
    Check.MODULE_ID: "module_id is a non-empty text",
    Check.DIGEST: "digest is the text SHA384",
    Check.TIMESTAMP: "timestamp is an integer from 1 to 2^53 - 1",
    Check.PCRS: "pcrs is a map of 1 to 32 entries",
    Check.PCR_INDEX: "every PCR index is an integer from 0 to 31",
    Check.PCR_LENGTH: "every PCR is a byte string of 48 bytes",
    Check.PCR_REQUIRED: "PCR0, PCR1 and PCR2 are there",
    Check.CERTIFICATE: "certificate is a byte string of 1 to 1,024 bytes",
    Check.CABUNDLE: "cabundle is a non-empty array",
    Check.CABUNDLE_ENTRY: "every cabundle entry is a byte string of 1 to 1,024 bytes",
    Check.PUBLIC_KEY: "public_key is null, absent or a byte string of at most 1,024 bytes",
    Check.USER_DATA: "user_data is null, absent or a byte string of at most 1,024 bytes",
    Check.NONCE_FIELD: "nonce is null, absent or a byte string of at most 1,024 bytes",
    Check.NITROTPM: "the document is an enclave's, not a NitroTPM's",
    Check.ROOT: "the first certificate of cabundle is a pinned root, byte for byte",
    Check.CERTIFICATE_ENCODING: "every certificate is one X.509 v3 certificate in DER, nothing after it",
    Check.CERTIFICATE_KEY: "every certificate has a P-384 key",
    Check.CERTIFICATE_ALGORITHM: "every certificate is signed with ecdsa-with-SHA384, inside and outside",
    Check.CRITICAL_EXTENSION: "no critical extension but basicConstraints and keyUsage",
    Check.CA_BASIC_CONSTRAINTS: "every CA has a critical basicConstraints with CA",
    Check.CA_PATH_LENGTH: "no CA has more CAs below it than its pathLen allows",
    Check.CA_KEY_USAGE: "every CA has keyUsage with keyCertSign",
    Check.LEAF_BASIC_CONSTRAINTS: "the leaf is no CA",
    Check.LEAF_KEY_USAGE: "the leaf has keyUsage with digitalSignature and without keyCertSign",
    Check.CHAIN_NAMES: "every certificate's issuer is its predecessor's subject, byte for byte",
    Check.CHAIN_SIGNATURES: "every certificate is signed by its predecessor",
    Check.CHAIN_EXACT: "the path is the whole of cabundle and the leaf, in order, nothing twice",
    Check.BEGINS_AFTER_DOCUMENT: "no certificate begins after the document's timestamp",
    Check.ENDED_BEFORE_DOCUMENT: "no certificate ended before the document's timestamp",
    Check.CLOCK_BEHIND: "the document is at most 300 s ahead of the verifier's clock",
    Check.EXPIRED: "no certificate has expired by the verifier's clock",
    Check.CLOCK_AHEAD: "the document is at most 300 s behind the verifier's clock",
    Check.DEBUG: "the enclave does not run in debug mode (PCR0, PCR1 and PCR2 are not zero)",
    Check.NONCE: "the document carries the verifier's own nonce",
    Check.MEASUREMENTS: "PCR0, PCR1, PCR2 (and PCR8 where given) equal one accepted tuple as a whole",
    Check.OWNER: "PCR16 names the expected owner",
    Check.MANIFEST: "PCR17 names the expected manifest",
    Check.SEQUENCE: "the manifest's sequence is not below the floor",
    Check.ROLE: "PCR3 is the expected IAM role's",
    Check.INSTANCE: "PCR4 is the expected instance's",
    Check.MODULE_INSTANCE: "PCR4 is that of the instance that module_id names",
    Check.BINDING_MISSING: "the evidence is a whole body: config and session key beside the document",
    Check.BINDING: "user_data binds the config and the session key",
    Check.CONFIG_OWNER: "the config's owner key gives PCR16",
    Check.CONFIG_MANIFEST: "the config's manifest digest gives PCR17",
    Check.PURPOSE: "the document was made for a caller, not for KMS (public_key is null)",
    Check.AGE: "the document is not older than the reference values allow",
    Check.MANIFEST_EXPIRED: "the manifest's not_after has not passed",
    Check.ANYONE: "the enclave authenticates its callers, or the reference values accept that it does not",
    Check.PARTITION: "the root is that of the expected partition",
    Check.WITHDRAWN: "the measurement is not withdrawn",
    Check.WITHDRAWALS_EXPIRED: "the list of withdrawn measurements is current",
    Check.EVIDENCE_BODY: "the evidence body parses: config, session key, document",
    Check.REFERENCE_VALUES: "the reference values are of the published schema and check something",
    Check.REFERENCE_VALUES_SIGNATURE: "the reference values are signed, and the signature is over what the file says",
    Check.REFERENCE_VALUES_OWNER: "the reference values are signed by the expected owner key",
    Check.REFERENCE_VALUES_SEQUENCE: "the reference values are newer than those held",
    Check.WITHDRAWALS: "the list of withdrawn measurements parses",
    Check.WITHDRAWALS_SIGNATURE: "the list of withdrawn measurements is signed by the owner key",
    Check.WITHDRAWALS_SEQUENCE: "the list of withdrawn measurements is not older than the one held",
    Check.EIF_TRUNCATED: "the image is not cut short",
    Check.EIF_MAGIC: "the image begins with .eif",
    Check.EIF_VERSION: "the image is of format version 4",
    Check.EIF_HEADER_FLAGS: "no header flag but aarch64, and unused header fields are zero",
    Check.EIF_SECTION_COUNT: "there are 1 to 32 sections, and unused places in the header are zero",
    Check.EIF_SECTION_PLACE: "each section starts where the one before it ends",
    Check.EIF_SECTION_SIZE: "a section's own size is the one in the image's header",
    Check.EIF_SECTION_TYPE: "every section is a kernel, cmdline, ramdisk, signature or metadata",
    Check.EIF_SECTION_FLAGS: "no section has a flag",
    Check.EIF_SECTIONS: "one kernel, one cmdline, one ramdisk or more, at most one signature and one metadata",
    Check.EIF_ORDER: "kernel, cmdline and ramdisks stand in this order",
    Check.EIF_TRAILING_BYTES: "nothing follows the last section",
    Check.EIF_CRC: "the CRC-32 is that of header and sections",
    Check.EIF_SIGNATURE_FORM: "the signature section is AWS's structure: one certificate, one COSE_Sign1 fitting its key",
    Check.EIF_SIGNATURE_REGISTER: "the signature is over register 0",
    Check.EIF_SIGNATURE_VALUE: "the signature is over this image's PCR0",
    Check.EIF_SIGNATURE: "the certificate's key made the signature",
    Check.EIF_SECTION_LIMIT: "cmdline, signature and metadata have at most 1 MiB each",
}
