"""The works, each beside its peers."""

from __future__ import annotations

from work import Work

from works.bits import BITS
from works.choose import CHOOSE
from works.dequantize import DEQUANTIZE
from works.dynamic import DYNAMIC
from works.error import ERROR
from works.fake_quantize import FAKE_QUANTIZE
from works.layouts import LAYOUTS
from works.quantize import QUANTIZE

WORKS: tuple[Work, ...] = (
    *QUANTIZE,
    *DEQUANTIZE,
    *CHOOSE,
    *DYNAMIC,
    *FAKE_QUANTIZE,
    ERROR,
    *BITS,
    *LAYOUTS,
)
