"""Opening DICOM files that may lie about every length in them.

The reader hands out a bounded number of bytes, refuses a length beyond the end of the file, and inflates a deflated file
only as far as a bound; pydicom is kept from writing values into warnings and logs.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from typing import BinaryIO

MAX_INFLATED_BYTES = 64 << 20  # of a deflated file, whose pixels are deflated with the rest
# What pydicom raises on bytes that are no DICOM (besides errors of its own); found by fuzzing.
PARSE_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class BoundedFile:
    """A file that gives no more bytes than the bound, and notices when it ends too early. Not thread-safe."""

    def __init__(self, file: BinaryIO, *, max_bytes: int) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._left = max_bytes
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Read exactly ``size`` bytes, fewer only where nothing or less than a tag is left."""
        if size < 0:
            return self._read_deflated()
        if size > self._left:
            raise ValueError("more than the bound")
        position = self._file.tell()
        if size > 8 and position + size > self._size:  # pydicom looks for the end by reading 8
            raise ValueError("cut off")  # not EOFError, over which pydicom passes in silence
        raw = self._file.read(size)
        if 0 < len(raw) < size:
            raise ValueError("cut off")
        self._left -= size
        return raw

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, also beyond the end."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Tell the position."""
        return self._file.tell()

    def close(self) -> None:
        """Leave the file to its owner."""

    def check_end(self) -> None:
        """Notice an element that was skipped beyond the end of the file."""
        if self._file.tell() > self._size:
            raise ValueError("cut off")

    def _read_deflated(self) -> bytes:
        """Give the rest of a deflated file once it is known to inflate within the bound (PS3.5 A.5)."""
        if self._size - self._file.tell() > self._left:
            raise ValueError("more deflated data than the bound")
        deflated = self._file.read()
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        size, rest = 0, deflated
        while rest and not inflater.eof:
            size += len(inflater.decompress(rest, 1 << 20))
            rest = inflater.unconsumed_tail
            if size > MAX_INFLATED_BYTES:
                raise ValueError("inflates beyond the bound")
        return deflated


def silence_pydicom() -> None:
    """Keep pydicom from quoting values and file names in warnings and logs."""
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    config.settings.writing_validation_mode = config.IGNORE
    config.logger.disabled = True
    warnings.filterwarnings("ignore", module=r"pydicom\b")
