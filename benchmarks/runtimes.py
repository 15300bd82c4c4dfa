"""ONNX Runtime and OpenVINO as contenders: models of one node or one layer, built in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from contender import Contender, Dtypes, Ready, dequantized, each
from problem import INPUT_SCALE, INPUT_ZERO_POINT, Problem
from timing import fastest
from torch import Tensor

Array = npt.NDArray[np.generic]
Constants = Mapping[str, Array | None]


def _onnx_model(node: tuple[str, str], dtypes: str, layers: Sequence[Constants]) -> bytes:
    """Build a model of a node (type, domain) a layer, all from one input of the ONNX dtypes.

    The constants are the node's further inputs in their order; None leaves out an optional one.
    """
    onnx = import_module("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    source, target = (getattr(types, dtype) for dtype in dtypes.split())
    nodes, outputs, initializers = [], [], []
    for index, constants in enumerate(layers):
        given = {name: value for name, value in constants.items() if value is not None}
        names = [f"{name}{index}" if name in given else "" for name in constants]
        output = f"output{index}"
        nodes.append(helper.make_node(node[0], ["input", *names], [output], domain=node[1]))
        outputs.append(helper.make_tensor_value_info(output, target, ["m", "n"]))
        initializers += [
            onnx.numpy_helper.from_array(value, f"{name}{index}") for name, value in given.items()
        ]
    inputs = [helper.make_tensor_value_info("input", source, ["m", "k"])]
    graph = helper.make_graph(nodes, "benchmark", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


def _onnx_ready(
    model: bytes, x: Tensor, threads: int, scale: float = 1.0, zero_point: int = 0
) -> Ready:
    """Run by numpy or by an IOBinding, whichever is faster for it."""
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    array = x.numpy()
    binding = session.io_binding()
    binding.bind_cpu_input("input", array)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")

    def by_numpy() -> object:
        return session.run(None, {"input": array})[0]

    def by_binding() -> object:
        return session.run_with_iobinding(binding)

    read = dequantized(scale, zero_point)
    call = fastest([by_numpy, by_binding], threads)
    note = "numpy" if call is by_numpy else "IOBinding"
    return Ready(call, lambda _result: read(torch.from_numpy(by_numpy())), note)


def _onnx_weight(problem: Problem) -> Array:
    """Return the weight as ONNX wants it, `[k, n]`."""
    return np.ascontiguousarray(problem.weight_codes.t().numpy())


def _onnx_dynamic(problems: Sequence[Problem], threads: int) -> Ready:
    layers: list[Constants] = [
        {
            "weight": _onnx_weight(problem),
            "scale": problem.weight_scale.numpy(),
            "zero_point": None,
            "bias": problem.bias.numpy(),
        }
        for problem in problems
    ]
    model = _onnx_model(("DynamicQuantizeMatMul", "com.microsoft"), "FLOAT FLOAT", layers)
    return _onnx_ready(model, problems[0].inputs.real[torch.float32], threads)


def _onnx_exact(problems: Sequence[Problem], threads: int) -> Ready:
    layers: list[Constants] = [{"weight": _onnx_weight(problem)} for problem in problems]
    model = _onnx_model(("MatMulInteger", ""), "UINT8 INT32", layers)
    return _onnx_ready(model, problems[0].inputs.codes, threads)


def _onnx_static(problems: Sequence[Problem], threads: int) -> Ready:
    """QGemm, for it has a bias, in units of the product; its output suits the first layer."""
    (problem,) = problems
    scale, zero_point = problem.output_qparams
    bias = problem.bias / (INPUT_SCALE * problem.weight_scale)
    constants: Constants = {
        "input_scale": np.array(INPUT_SCALE, np.float32),
        "input_zero_point": np.array(INPUT_ZERO_POINT, np.uint8),
        "weight": _onnx_weight(problem),
        "weight_scale": problem.weight_scale.numpy(),
        "weight_zero_point": np.zeros(problem.shape.n, np.int8),
        "bias": bias.round().to(torch.int32).numpy(),
        "output_scale": np.array(scale, np.float32),
        "output_zero_point": np.array(zero_point, np.uint8),
    }
    model = _onnx_model(("QGemm", "com.microsoft"), "UINT8 UINT8", [constants])
    return _onnx_ready(model, problem.inputs.codes, threads, scale, zero_point)


def _openvino_note(layers: Iterable[tuple[str, str]]) -> str:
    """Return the primitive of the product, for it may well be a float one."""
    products = [primitive for kind, primitive in layers if kind in ("FullyConnected", "MatMul")]
    is_int8 = any("8" in primitive for primitive in products)
    return ("INT8: " if is_int8 else "no INT8 path here: ") + ", ".join(products)


def _openvino_ready(
    openvino: ModuleType, model: object, x: Tensor, config: Mapping[str, object]
) -> Ready:
    """Infer from a preallocated input into the preallocated output."""
    latency = {"PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(model, "CPU", {**latency, **config})
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(x.numpy(), shared_memory=True))
    output = request.get_output_tensor()
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    layers = [(node["layerType"].astype(str), node["primitiveType"].astype(str)) for node in nodes]
    return Ready(
        lambda: request.infer(share_outputs=True),
        lambda _result: torch.from_numpy(output.data.copy()),
        _openvino_note(layers),
    )


def _openvino_linear(ops: ModuleType, activation: object, problem: Problem) -> object:
    """Add the layer, its weight an INT8 constant that is scaled per channel."""
    codes = ops.constant(problem.weight_codes.numpy())
    scale = ops.constant(problem.weight_scale[:, None].numpy())
    weight = ops.multiply(ops.convert(codes, "f32"), scale)
    product = ops.matmul(activation, weight, False, True)
    return ops.add(product, ops.constant(problem.bias[None].numpy()))


def _openvino_dynamic(problem: Problem, threads: int) -> Ready:
    openvino, ops = import_module("openvino"), import_module("openvino.opset13")
    x = ops.parameter([problem.shape.m, problem.shape.k], np.float32)
    model = openvino.Model([_openvino_linear(ops, x, problem)], [x])
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": problem.shape.k,
    }
    return _openvino_ready(openvino, model, problem.inputs.real[torch.float32], config)


def _openvino_static(problem: Problem, threads: int) -> Ready:
    """A float input behind a FakeQuantize, from which the plugin makes an INT8 product."""
    openvino, ops = import_module("openvino"), import_module("openvino.opset13")
    x = ops.parameter([problem.shape.m, problem.shape.k], np.float32)
    low, high = (
        ops.constant(np.float32((code - INPUT_ZERO_POINT) * INPUT_SCALE)) for code in (0, 255)
    )
    quantized = ops.fake_quantize(x, low, high, low, high, 256)
    model = openvino.Model([_openvino_linear(ops, quantized, problem)], [x])
    return _openvino_ready(
        openvino, model, problem.inputs.static, {"INFERENCE_NUM_THREADS": threads}
    )


_FLOATS = Dtypes(torch.float32, torch.float32)

RUNTIMES = (
    Contender("ONNX Runtime MatMulInteger", "exact", Dtypes(torch.uint8, torch.int32), _onnx_exact),
    Contender("ONNX Runtime QGemm", "static", Dtypes(torch.uint8, torch.uint8), _onnx_static),
    Contender("OpenVINO static", "static", _FLOATS, each(_openvino_static)),
    Contender("ONNX Runtime DynamicQuantizeMatMul", "dynamic", _FLOATS, _onnx_dynamic),
    Contender("OpenVINO dynamic", "dynamic", _FLOATS, each(_openvino_dynamic)),
)
