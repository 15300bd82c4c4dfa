"""The sets of shapes."""

from __future__ import annotations

from itertools import product

from problem import Shape

TABLE = (
    Shape(64, 128, 256),
    Shape(1, 4096, 4096),
    Shape(8, 4096, 4096),
    Shape(32, 768, 3072),
    Shape(128, 768, 768),
    Shape(1024, 1024, 1024),
    Shape(512, 1024, 4096),
    Shape(2048, 4096, 1024),
    Shape(512, 4096, 4096),
)

# Other ratios of the sizes, and odd ones, so that nothing is tuned to the first set alone.
OTHER = (
    Shape(1, 768, 768),
    Shape(4, 1024, 4096),
    Shape(16, 2048, 2048),
    Shape(48, 384, 1536),
    Shape(96, 640, 2560),
    Shape(200, 1000, 1000),
    Shape(300, 384, 384),
    Shape(700, 1536, 640),
    Shape(1500, 513, 2051),
)

# Off the multiples of the kernels' tiles, beside the next that is on them.
ODD = tuple(
    (Shape(*odd), Shape(*rounded))
    for odd, rounded in (
        ((128, 1, 768), (128, 4, 768)),
        ((128, 3, 768), (128, 4, 768)),
        ((128, 383, 768), (128, 384, 768)),
        ((128, 768, 1), (128, 768, 16)),
        ((128, 768, 17), (128, 768, 32)),
        ((128, 768, 1001), (128, 768, 1008)),
        ((1, 768, 768), (8, 768, 768)),
        ((7, 768, 768), (8, 768, 768)),
        ((13, 768, 768), (16, 768, 768)),
        ((13, 383, 1001), (16, 384, 1008)),
    )
)

SMALL = tuple(
    Shape(m, k, n)
    for m, k, n in product((1, 2, 4, 8, 16, 32, 64), (16, 32, 64, 128), (16, 32, 64, 128))
)

STREAMING = tuple(Shape(m, 4096, 4096) for m in (1, 4, 16))
STREAMING_LAYERS = 12
