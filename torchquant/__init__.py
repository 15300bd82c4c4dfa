"""INT8 quantization operators for PyTorch: torch.ops.torchquant.*, layers, and model conversion."""

from torchquant import _library

_library.load()

from torchquant import nn, observers, ops  # noqa: E402  (they need the loaded operators)
from torchquant.calibrate import calibrate  # noqa: E402
from torchquant.calibration import Calibration  # noqa: E402
from torchquant.convert import quantize_dynamic, quantize_static, quantize_weights  # noqa: E402
from torchquant.functional import (  # noqa: E402
    asymmetric_dequantize,
    asymmetric_quantize,
    compute_quantization_error,
    per_channel_dequantize,
    per_channel_quantize,
    symmetric_dequantize,
    symmetric_quantize,
)
from torchquant.loading import load_quantized  # noqa: E402
from torchquant.saving import save_quantized  # noqa: E402
from torchquant.weight_report import WeightReport, weight_report  # noqa: E402

__version__ = _library.installed_version()

#: What CMAKE_PREFIX_PATH needs for find_package(TorchQuant).
cmake_prefix_path = str(_library.PACKAGE / "share" / "cmake")

__all__ = [
    "Calibration",
    "WeightReport",
    "__version__",
    "asymmetric_dequantize",
    "asymmetric_quantize",
    "calibrate",
    "cmake_prefix_path",
    "compute_quantization_error",
    "load_quantized",
    "nn",
    "observers",
    "ops",
    "per_channel_dequantize",
    "per_channel_quantize",
    "quantize_dynamic",
    "quantize_static",
    "quantize_weights",
    "save_quantized",
    "symmetric_dequantize",
    "symmetric_quantize",
    "weight_report",
]
