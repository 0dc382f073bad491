"""Whether this CPU adds pairs of 8-bit products in 16 bits, where they overflow: AVX2 and AVX-512 without VNNI do."""

from __future__ import annotations

import base64
from functools import cache
from typing import Final

import numpy as np

# y = MatMulInteger(a, b) of unsigned and signed 8-bit integers, as the onnx package writes it; importing that takes 0.1 s.
_PRODUCT: Final = "CAo6UAoYCgFhCgFiEgF5Ig1NYXRNdWxJbnRlZ2VyEgFnWg8KAWESCgoICAISBAoACgBaDwoBYhIKCggIAxIECgAKAGIPCgF5EgoKCAgGEgQKAAoAQgQKABAV"
_INPUTS: Final = 64


@cache
def products_overflow() -> bool:
    """Multiply the largest values and look; what a CPU says of itself is of no use where it is emulated."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        base64.b64decode(_PRODUCT), options, providers=["CPUExecutionProvider"]
    )
    largest = {
        "a": np.full((2, _INPUTS), 255, np.uint8),
        "b": np.full((_INPUTS, 16), 127, np.int8),
    }
    (found,) = session.run(None, largest)
    return bool((found != _INPUTS * 255 * 127).any())
