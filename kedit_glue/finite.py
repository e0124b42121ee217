"""Whether a model's stored weights are numbers: NaN and infinity are found by their bits, without torch.

In every IEEE format a value with all exponent bits set is NaN or infinite. A processor core looks at about 4 GB/s, so a
7B model takes seconds, or what its disk takes to read it.
"""

from __future__ import annotations

from pathlib import Path

import numpy

from kedit_glue.weights import Stored, stored

EXPONENT = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""Number format -> unsigned integers of its size, and the bits of its exponent."""
AT_ONCE = 1 << 20
"""Bytes that are looked at together: they stay in the processor's cache."""


def first_not_finite(folder: Path) -> str | None:
    """The first tensor of a model folder that holds NaN or infinity, in the files' order; None where none does."""
    return next((name for name, at in stored(folder).items() if not is_finite(at)), None)


def is_finite(at: Stored) -> bool:
    """Whether every value of a tensor is a number; those of whole numbers and of formats below 16 bits are."""
    if at.dtype not in EXPONENT or not at.entries:
        return True
    integers, exponent = EXPONENT[at.dtype]
    values = numpy.memmap(at.file, dtype=integers, mode="r", offset=at.start, shape=(at.entries,))
    step = AT_ONCE // values.itemsize
    return all(int((values[start : start + step] & exponent).max()) != exponent for start in range(0, at.entries, step))
