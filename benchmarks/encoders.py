"""Ways to run a sentence encoder: in float, by the INT8 of peers, and by ours."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

import torchquant
from torchquant.demo.cpp import compile_package
from torchquant.demo.minilm import Batch, SentenceEncoder, torch_ao_dynamic

Encode = Callable[[Tensor, Tensor], Tensor]
_INPUTS = ["input_ids", "attention_mask"]

# Freezing turns the weights into constants; without it this took many times as long on AVX2. The
# others torchao would set for the whole process, and so for all contenders.
_TORCHAO_INDUCTOR = {
    "freezing": True,
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
    "force_fuse_int_mm_with_mul": True,
}


@dataclass(frozen=True)
class Material:
    """A float32 model, and what its other forms are made with.

    Attributes:
        example: A batch of several sentences, to trace or export with.
        calibration: Batches of sentences that are not among those measured.
    """

    model: SentenceEncoder
    example: Batch
    calibration: Sequence[Batch]


@dataclass(frozen=True)
class Contender:
    """One way to run it.

    Attributes:
        prepare: Returns what embeds a batch with PyTorch's present number of threads; raises where
            that does not run.
        inductor: What torch._inductor.config is while it is prepared and first runs each shape:
            given to torch.compile, freezing would come too late for the tracing.
    """

    name: str
    prepare: Callable[[Material], Encode]
    inductor: Mapping[str, bool] = field(default_factory=dict)


def _compiled(model: nn.Module) -> Encode:
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    return cast(Encode, compiled)


def _bfloat16(material: Material) -> Encode:
    return copy.deepcopy(material.model).to(torch.bfloat16)


def _torchao(material: Material) -> Encode:
    quantization, utils = import_module("torchao.quantization"), import_module("torchao.utils")
    config = quantization.Int8DynamicActivationInt8WeightConfig(
        set_inductor_config=False, reduce_range=utils.should_reduce_range(torch.device("cpu"))
    )
    model = copy.deepcopy(material.model)
    quantization.quantize_(model, config)
    return _compiled(model)


def _export_onnx(material: Material, path: Path) -> None:
    """Export by tracing, for the newer exporter needs onnxscript."""
    sizes = {0: "batch", 1: "length"}
    torch.onnx.export(
        copy.deepcopy(material.model),
        material.example,
        str(path),
        input_names=_INPUTS,
        output_names=["embedding"],
        dynamic_axes=dict.fromkeys(_INPUTS, sizes),
        dynamo=False,
    )


def _onnx_runtime(material: Material) -> Encode:
    runtime = import_module("onnxruntime")
    quantization = import_module("onnxruntime.quantization")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        exported, quantized = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        _export_onnx(material, exported)
        quantization.quantize_dynamic(exported, quantized, per_channel=True)
        session = runtime.InferenceSession(
            str(quantized), options, providers=["CPUExecutionProvider"]
        )

    def encode(*batch: Tensor) -> Tensor:
        feed = {name: x.numpy() for name, x in zip(_INPUTS, batch, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return encode


def _ours_static(material: Material) -> Encode:
    calibration = torchquant.calibrate(material.model, material.calibration, progress=False)
    return torchquant.quantize_static(material.model, calibration)


def _ours_aot_inductor(material: Material) -> Encode:
    """Compile ahead of time to a package that a program without Python loads, too."""
    quantized = torchquant.quantize_dynamic(material.model)
    with tempfile.TemporaryDirectory() as folder:
        path = compile_package(quantized, material.example, Path(folder) / "encoder.pt2")
        return cast(Encode, torch._inductor.aoti_load_package(str(path)))


FLOAT32 = "float32, eager"

CONTENDERS = (
    Contender(FLOAT32, lambda material: material.model),
    Contender("float32, torch.compile", lambda material: _compiled(material.model)),
    Contender("bfloat16, eager", _bfloat16),
    Contender("torch.ao dynamic", lambda material: torch_ao_dynamic(material.model)),
    Contender("torchao dynamic, torch.compile", _torchao, _TORCHAO_INDUCTOR),
    Contender("ONNX Runtime dynamic", _onnx_runtime),
    Contender("ours dynamic, eager", lambda material: torchquant.quantize_dynamic(material.model)),
    Contender(
        "ours dynamic, torch.compile",
        lambda material: _compiled(torchquant.quantize_dynamic(material.model)),
    ),
    Contender("ours dynamic, AOTInductor", _ours_aot_inductor),
    Contender("ours static, eager", _ours_static),
)
