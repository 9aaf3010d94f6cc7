"""What of ONNX is sealed and loaded: the one profile that the owner's tools and the enclave's intake judge by."""

from typing import Final

# Operator sets that ONNX Runtime's CPU build brings along; any other would want a library that the enclave has not.
DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

# The only file name of external data, and the name of the part that it is.
WEIGHTS_FILE: Final = "weights"

# Subgraphs and functions inside one another.
DEPTH_MAX: Final = 16

# onnx.TensorProto.DataType of inputs and outputs, as the inference protocol names them.
DATATYPES: Final = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}

# Bits of one element of each datatype that an initialiser may have; strings (8) have no size of their own.
ITEM_BITS: Final = {
    1: 32,
    2: 8,
    3: 8,
    4: 16,
    5: 16,
    6: 32,
    7: 64,
    9: 8,
    10: 16,
    11: 64,
    12: 32,
    13: 64,
    14: 64,
    15: 128,
    16: 16,
    17: 8,
    18: 8,
    19: 8,
    20: 8,
    21: 4,
    22: 4,
    23: 4,
    24: 8,
    25: 2,
    26: 2,
}
