"""Wrong arguments, one by one, each with its whole message: what was given, and the repair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from samples import F16, I8, I16, I32, U8

Arguments = dict[str, Any]
F32, F64, I64 = torch.float32, torch.float64, torch.int64
LOWEST, HUGE = -(2**63), 2**63 - 1
# A number that is none of torch's dtypes, as TorchScript may pass it.
NO_DTYPE = 99
OTHER_DEVICE = {"cpu": "meta", "meta": "cpu", "cuda": "cpu"}
SHOWN_DEVICE = {"cpu": "cpu", "meta": "meta", "cuda": "cuda:0"}  # as a tensor's prints itself
# As messages print them.
NAMES = {
    torch.bool: "torch.bool",
    torch.complex64: "torch.complex64",
    torch.float8_e4m3fn: "torch.float8_e4m3fn",
    torch.uint16: "torch.uint16",
    torch.uint32: "torch.uint32",
    F64: "torch.float64",
    F32: "torch.float32",
    F16: "torch.float16",
    I64: "torch.int64",
    I32: "torch.int32",
    I16: "torch.int16",
    I8: "torch.int8",
    U8: "torch.uint8",
}
# No operator takes them.
STRANGE = (torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16, torch.uint32)


def name_of(dtype: torch.dtype | int) -> str:
    return f"number {dtype}" if isinstance(dtype, int) else NAMES[dtype]


@dataclass(frozen=True)
class Zeros:
    """A tensor to be made on the device of the call, or elsewhere."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    elsewhere: bool = False

    def on(self, device: str) -> torch.Tensor:
        device = OTHER_DEVICE[device] if self.elsewhere else device
        return torch.zeros(self.shape, dtype=self.dtype, device=device)

    def __str__(self) -> str:
        return f"{str(self.dtype)[6:]}{list(self.shape)}{' elsewhere' if self.elsewhere else ''}"

    def __format__(self, spec: str) -> str:
        """`{tensor:dtype}` and `{tensor:shape}` as messages print them."""
        return NAMES[self.dtype] if spec == "dtype" else str(list(self.shape))


def zeros(*shape: int, dtype: torch.dtype = F32, elsewhere: bool = False) -> Zeros:
    return Zeros(shape, dtype, elsewhere)


@dataclass(frozen=True)
class Wrong:
    """What to change in a right call, and what is then said."""

    change: Arguments
    message: str

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!s}" for name, value in self.change.items())


@dataclass(frozen=True)
class Refusal:
    right: Arguments
    wrong: Wrong

    def right_call(self, device: str) -> Arguments:
        return {
            name: value.on(device) if isinstance(value, Zeros) else value
            for name, value in self.right.items()
        }

    def wrong_call(self, device: str) -> Arguments:
        return Refusal({**self.right, **self.wrong.change}, self.wrong).right_call(device)

    def message(self, device: str) -> str:
        other = SHOWN_DEVICE[OTHER_DEVICE[device]]
        return self.wrong.message.replace("<device>", SHOWN_DEVICE[device]).replace(
            "<other>", other
        )

    def __str__(self) -> str:
        return str(self.wrong)


# One function for each rule: a wrong value and the message it brings.


def not_float(name: str, x: Zeros) -> Wrong:
    message = "must be float32, float16 or bfloat16, but got"
    return Wrong({name: x}, f"{name} {message} {x:dtype}: convert it with .float()")


def not_code(name: str, x: Zeros) -> Wrong:
    message = f"{name} must be int8, uint8, int16 or int32, but got {x:dtype}"
    return Wrong({name: x}, f"{message}: pass what a quantize operator returned")


def not_byte(name: str, x: Zeros) -> Wrong:
    message = f"{name} must be int8 or uint8, but got {x:dtype}"
    return Wrong({name: x}, f"{message}: quantize it first, or convert it with .to(torch.int8)")


def not_int8(name: str, x: Zeros, repair: str) -> Wrong:
    return Wrong({name: x}, f"{name} must be int8, but got {x:dtype}: {repair}")


def not_error_operand(name: str, x: Zeros) -> Wrong:
    message = f"{name} must be float64, float32, float16 or bfloat16, but got {x:dtype}"
    return Wrong({name: x}, f"{message}: dequantize it first")


def none(*names: str) -> list[Wrong]:
    repair = "must be a tensor, but got None: this one is not optional"
    return [Wrong({name: None}, f"{name} {repair}") for name in names]


def dtype_of(name: str, x: Zeros, wanted: torch.dtype) -> Wrong:
    return Wrong(
        {name: x},
        f"{name} must be {NAMES[wanted]}, but got {x:dtype}: convert it with .to({NAMES[wanted]})",
    )


def device_of(name: str, x: Zeros, owner: str) -> Wrong:
    message = f"{name} must be on the device of {owner}, <device>, but got <other>"
    elsewhere = Zeros(x.shape, x.dtype, elsewhere=True)
    return Wrong({name: elsewhere}, f"{message}: move it with .to({owner}.device)")


def shape_of(name: str, x: Zeros, wanted: list[int], meaning: str) -> Wrong:
    message = f"{name} must have shape {wanted}, {meaning}, but got {x:shape}"
    return Wrong({name: x}, f"{message}: reshape it, or compute it for this very tensor")


def several_elements(name: str, x: Zeros) -> Wrong:
    message = f"{name} must have one element, but got shape {x:shape}"
    return Wrong({name: x}, f"{message}: use the per_channel or per_token operator for more")


def not_static_input(x: Zeros) -> Wrong:
    message = "input must be float32, float16, bfloat16, uint8 or int8, but got"
    return Wrong({"input": x}, f"{message} {x:dtype}: convert it with .float()")


def several_params(name: str, x: Zeros) -> Wrong:
    message = f"{name} must have one element, but got shape {x:shape}"
    return Wrong({name: x}, f"{message}: static quantization is per tensor, pass 0-dim tensors")


def alone(name: str) -> Wrong:
    other = {"output_scale": "output_zero_point", "output_zero_point": "output_scale"}[name]
    return Wrong(
        {other: None},
        f"output_scale and output_zero_point must be given together, but got only {name}: pass "
        "both for an 8-bit result, or neither for a float one",
    )


def output_dtype(dtype: torch.dtype | int, requantized: bool) -> Wrong:
    change: Arguments = {"output_dtype": dtype}
    if requantized:
        message = f"output_dtype must be uint8 or int8 with output_scale, but got {name_of(dtype)}"
        repair = "leave output_scale and output_zero_point out for a float result"
        return Wrong(change, f"{message}: {repair}")
    change |= {"output_scale": None, "output_zero_point": None}
    if dtype in (I8, U8):
        message = f"output_dtype {name_of(dtype)} needs output_scale and output_zero_point"
        repair = "pass those of the layer that reads the result"
        return Wrong(change, f"{message}, but got None: {repair}")
    message = "output_dtype must be float32, float16, bfloat16, uint8 or int8, but got"
    return Wrong(change, f"{message} {name_of(dtype)}: pass torch.float32 and convert the result")


def few_dims(name: str, x: Zeros, least: int = 1) -> Wrong:
    message = f"{name} must have {least} or more dimensions, but got {len(x.shape)}"
    return Wrong({name: x}, f"{message}: add them with .unsqueeze(0)")


def other_dims(b: Zeros) -> Wrong:
    message = f"b must have as many dimensions as a, 2, but got {len(b.shape)}"
    return Wrong({"b": b}, f"{message}: nothing is broadcast, expand it first")


def axis(given: int) -> Wrong:
    message = f"axis must lie in [-2, 1] for this input, but got {given}"
    repair = "it counts the dimensions of input, negative ones from the last"
    return Wrong({"axis": given}, f"{message}: {repair}")


def quant_range(quant_min: int, quant_max: int) -> Wrong:
    return Wrong(
        {"quant_min": quant_min, "quant_max": quant_max},
        "quant_min and quant_max must satisfy -65536 <= quant_min < quant_max <= 65535, but got "
        f"{quant_min} and {quant_max}: int8 is -128 and 127, uint8 is 0 and 255",
    )


def one_sided(quant_min: int, quant_max: int) -> Wrong:
    return Wrong(
        {"quant_min": quant_min, "quant_max": quant_max, "symmetric": True},
        "quant_min and quant_max must lie on both sides of 0 when symmetric is true, but got "
        f"{quant_min} and {quant_max}: pass -128 and 127, or symmetric=False",
    )


def no_code_dtype(dtype: torch.dtype | int) -> Wrong:
    message = f"dtype must be int8, uint8, int16 or int32, but got {name_of(dtype)}"
    return Wrong({"dtype": dtype}, f"{message}: this range fits {NAMES[I8]}")


def narrow(
    dtype: torch.dtype, holds: str, quant_min: int, quant_max: int, fits: torch.dtype
) -> Wrong:
    got = f"but got quant_min {quant_min} and quant_max {quant_max}"
    return Wrong(
        {"dtype": dtype, "quant_min": quant_min, "quant_max": quant_max},
        f"dtype {NAMES[dtype]} holds {holds}, {got}: this range fits {NAMES[fits]}",
    )


def out_dtype(dtype: torch.dtype | int) -> Wrong:
    message = f"out_dtype must be float32, float16 or bfloat16, but got {name_of(dtype)}"
    return Wrong({"out_dtype": dtype}, f"{message}: pass torch.float32 and convert the result")


def group_size(given: int) -> Wrong:
    message = f"group_size must be 1 or more, but got {given}"
    repair = "it counts neighbours in the last dimension, 32 or 128 are usual"
    return Wrong({"group_size": given}, f"{message}: {repair}")


def num_bits(given: int) -> Wrong:
    message = f"num_bits must lie in [2, 8], but got {given}"
    repair = "pass 2 for narrower codes, and keep wider ones in int16 or int32 as they are"
    return Wrong({"num_bits": given}, f"{message}: {repair}")


def last_dim(given: int, taken: int) -> Wrong:
    return Wrong(
        {"last_dim": given},
        f"last_dim must fill the rows of packed, 3 bytes each, but got {given} codes of 4 bits, "
        f"which take {taken}: pass the size of the last dimension that was packed",
    )


def impossible_last_dim(given: int) -> Wrong:
    return Wrong(
        {"last_dim": given},
        f"last_dim must lie in [0, 12] for rows of 3 bytes, but got {given}: pass the size of the "
        "last dimension that was packed",
    )


def packed_shape(change: Arguments, name: str, wanted: list[int], given: list[int]) -> Wrong:
    return Wrong(
        change,
        f"{name} must have shape {wanted}, [ceil(out_features / 16), ceil(in_features / 4), 16, 4],"
        f" but got {given}: pass what pack_weight returned for a weight of these features",
    )


def features(name: str, given: int) -> Wrong:
    message = f"{name} must lie in [0, 2147483647], but got {given}"
    return Wrong({name: given}, f"{message}: pass that of the weight that was packed")


def width(name: str, x: Zeros, wanted: str) -> Wrong:
    return Wrong(
        {name: x},
        f"{name} must have {wanted} values in its last dimension, the in_features of "
        f"packed_weight, but got shape {x:shape}: pass rows of as many values as the packed weight "
        "had",
    )


def deep(limit: int, name: str, x: Zeros, more: Arguments) -> Wrong:
    repair = {
        "a": "split it and the weight, and add the products of the parts in int64",
        "input": "keep this layer in float, or split it and add the outputs of the parts",
    }
    return Wrong(
        {name: x, **more},
        f"{name} must have at most {limit} values in its last dimension for these dtypes, or the "
        f"int32 sums may overflow, but got {x.shape[-1]}: {repair[name]}",
    )


def deep_matmul(limit: int, a: torch.dtype, b: torch.dtype) -> Wrong:
    given = limit + 1
    return deep(limit, "a", zeros(1, given, dtype=a), {"b": zeros(given, 1, dtype=b)})


def deep_packed(limit: int, name: str, dtype: torch.dtype) -> Wrong:
    """One value too many; the weight would be as deep."""
    packed = zeros(1, limit // 4 + 1, 16, 4, dtype=I8)
    return deep(limit, name, zeros(1, limit + 1, dtype=dtype), {"packed_weight": packed})


def activation(given: str) -> Wrong:
    message = f'activation must be "none" or "relu", but got "{given}"'
    return Wrong({"activation": given}, f'{message}: pass "none" and apply others to the result')


def method(given: str) -> Wrong:
    message = 'method must be "minmax", "percentile", "mse" or "entropy", but got'
    return Wrong({"method": given}, f'{message} "{given}": "mse" suits most activations')


def percentile(given: float) -> Wrong:
    message = f"percentile must lie in (50, 100], but got {given:g}"
    return Wrong({"percentile": given}, f"{message}: 99.99 is usual")


CHANNEL = "one for each channel"
TOKEN = "one for each row of the last dimension"
GROUP = "one for each group of each row"
FEATURE = "one for each output feature"
SUM = "the sum of each weight row"

# The dispatcher itself refuses None where there is no other tensor.
ONLY_FLOAT_INPUT = [not_float("input", zeros(2, 3, dtype=d)) for d in (F64, I32, *STRANGE)]
FLOAT_INPUT = [*none("input"), *ONLY_FLOAT_INPUT]
CODE_INPUT = [
    *none("input"),
    *(not_code("input", zeros(2, 3, dtype=d)) for d in (F32, I64, *STRANGE)),
    *(out_dtype(d) for d in (F64, I8, *STRANGE, NO_DTYPE)),
]
RANGE = [
    quant_range(127, 127),
    quant_range(128, 127),
    quant_range(-65537, 127),
    quant_range(-128, 65536),
    quant_range(LOWEST, 127),
    quant_range(HUGE, 127),
    quant_range(-128, LOWEST),
    quant_range(-128, HUGE),
    quant_range(LOWEST, HUGE),
]
SYMMETRIC = [one_sided(0, 127), one_sided(-128, 0), one_sided(-128, -1)]
AXIS = [axis(given) for given in (2, -3, LOWEST, HUGE)]
DTYPE = [
    *(no_code_dtype(d) for d in (I64, F32, *STRANGE, NO_DTYPE)),
    narrow(U8, "0 to 255", -128, 127, I8),
    narrow(I8, "-128 to 127", -128, 128, I16),
    narrow(I8, "-128 to 127", 0, 255, U8),
    narrow(I16, "-32768 to 32767", 0, 40000, I32),
]


def qparams(*right: int) -> list[Wrong]:
    return [
        *none("scale", "zero_point"),
        *(dtype_of("scale", zeros(*right, dtype=d), F32) for d in (F64, F16, *STRANGE)),
        *(dtype_of("zero_point", zeros(*right, dtype=d), I32) for d in (I64, F32, *STRANGE)),
        device_of("scale", zeros(*right), "input"),
        device_of("zero_point", zeros(*right, dtype=I32), "input"),
    ]


PER_TENSOR = [
    *qparams(),
    *(several_elements("scale", zeros(n)) for n in (0, 2)),
    *(several_elements("zero_point", zeros(n, dtype=I32)) for n in (0, 2)),
]
PER_CHANNEL = [
    *qparams(2),
    *(shape_of("scale", zeros(*s), [2], CHANNEL) for s in [(), (1,), (3,), (2, 1)]),
    *(shape_of("zero_point", zeros(*s, dtype=I32), [2], CHANNEL) for s in [(), (1,), (3,), (2, 1)]),
]
PER_GROUP = [
    *qparams(2, 2),
    *(shape_of("scale", zeros(*s), [2, 2], GROUP) for s in [(), (2,), (2, 1), (2, 3)]),
    *(
        shape_of("zero_point", zeros(*s, dtype=I32), [2, 2], GROUP)
        for s in [(), (2,), (2, 1), (2, 3)]
    ),
]
# As many as there may be make one group.
GROUP_SIZE = [group_size(given) for given in (0, -1, LOWEST)]
PER_TOKEN = [
    *qparams(2, 1),
    *(shape_of("scale", zeros(*s), [2, 1], TOKEN) for s in [(), (2,), (1, 1), (2, 3)]),
    *(
        shape_of("zero_point", zeros(*s, dtype=I32), [2, 1], TOKEN)
        for s in [(), (2,), (1, 1), (2, 3)]
    ),
]


LIMITS = {"quant_min": -128, "quant_max": 127, "symmetric": False}


def choose(**more: Any) -> Arguments:
    return {"input": zeros(2, 3), **LIMITS, **more}


def qparams_of(*right: int) -> Arguments:
    return {"scale": zeros(*right), "zero_point": zeros(*right, dtype=I32)}


def quantize(*right: int, **more: Any) -> Arguments:
    limits = {"quant_min": -128, "quant_max": 127, "dtype": I8}
    return {"input": zeros(2, 3), **qparams_of(*right), **limits, **more}


def dequantize(*right: int, **more: Any) -> Arguments:
    return {"input": zeros(2, 3, dtype=I8), **qparams_of(*right), **more}


def fake_quantize(*right: int, **more: Any) -> Arguments:
    return {"input": zeros(2, 3), **qparams_of(*right), "quant_min": -128, "quant_max": 127, **more}


def backward(*right: int, **more: Any) -> Arguments:
    return {"grad": zeros(2, 3), **fake_quantize(*right, **more), "scale_requires_grad": True}


GRAD = [
    *none("grad"),
    dtype_of("grad", zeros(2, 3, dtype=F16), F32),
    dtype_of("grad", zeros(2, 3, dtype=I32), F32),
    *(shape_of("grad", zeros(*s), [2, 3], "that of input") for s in [(), (6,), (3, 2), (2, 1)]),
    device_of("grad", zeros(2, 3), "input"),
]

PACKED = zeros(1, 2, 16, 4, dtype=I8)
ONE_TOO_MANY = {"out_features": 17}

STATE = {"counts": zeros(32768, dtype=I64), "range": zeros(2)}
OF_A_STATE = [
    *none("counts", "range"),
    *(dtype_of("counts", zeros(32768, dtype=d), I64) for d in (I32, F32)),
    *(
        shape_of("counts", zeros(*s, dtype=I64), [32768], "one for each bin")
        for s in [(), (0,), (32767,), (32769,), (1, 32768), (32768, 1)]
    ),
    *(dtype_of("range", zeros(2, dtype=d), F32) for d in (F64, F16, I32)),
    *(
        shape_of("range", zeros(*s), [2], "a minimum and a maximum")
        for s in [(), (1,), (3,), (1, 2)]
    ),
    device_of("range", zeros(2), "counts"),
]

LAYER = {
    "packed_weight": PACKED,
    "weight_scale": zeros(3),
    "weight_sum": zeros(3, dtype=I32),
    "bias": zeros(3),
}
OF_A_LAYER = [
    *none("input", "packed_weight", "weight_scale", "weight_sum"),
    few_dims("input", zeros()),
    *(width("input", zeros(2, n), "5 to 8") for n in (0, 4, 9)),
    not_int8("packed_weight", zeros(1, 2, 16, 4), "pass what pack_weight returned"),
    packed_shape({"packed_weight": zeros(3, 5, dtype=I8)}, "packed_weight", [1, 2, 16, 4], [3, 5]),
    packed_shape({"weight_scale": zeros(17)}, "packed_weight", [2, 2, 16, 4], [1, 2, 16, 4]),
    dtype_of("weight_scale", zeros(3, dtype=F16), F32),
    shape_of("weight_scale", zeros(3, 1), [3], FEATURE),
    dtype_of("weight_sum", zeros(3), I32),
    shape_of("weight_sum", zeros(4, dtype=I32), [3], SUM),
    dtype_of("bias", zeros(3, dtype=F16), F32),
    *(shape_of("bias", zeros(*s), [3], FEATURE) for s in [(4,), (1,), (1, 3)]),
    activation("gelu"),
    activation("ReLU"),
    activation(""),
    device_of("packed_weight", PACKED, "input"),
    device_of("weight_scale", zeros(3), "input"),
    device_of("weight_sum", zeros(3, dtype=I32), "input"),
    device_of("bias", zeros(3), "input"),
]

# Of every operator, a right call and what is wrong with others.
_TABLE: dict[str, tuple[Arguments, list[Wrong]]] = {
    "choose_qparams_per_tensor": (choose(), [*ONLY_FLOAT_INPUT, *RANGE, *SYMMETRIC]),
    "choose_qparams_per_channel": (
        choose(axis=0),
        [*ONLY_FLOAT_INPUT, few_dims("input", zeros()), *AXIS, *RANGE, *SYMMETRIC],
    ),
    "choose_qparams_per_group": (
        choose(group_size=2),
        [*ONLY_FLOAT_INPUT, few_dims("input", zeros()), *GROUP_SIZE, *RANGE, *SYMMETRIC],
    ),
    "choose_qparams_per_token": (
        choose(),
        [*ONLY_FLOAT_INPUT, few_dims("input", zeros()), *RANGE, *SYMMETRIC],
    ),
    "quantize_per_tensor": (quantize(), [*FLOAT_INPUT, *RANGE, *DTYPE, *PER_TENSOR]),
    "quantize_per_channel": (
        quantize(2, axis=0),
        [*FLOAT_INPUT, few_dims("input", zeros()), *AXIS, *RANGE, *DTYPE, *PER_CHANNEL],
    ),
    "quantize_per_group": (
        quantize(2, 2, group_size=2),
        [*FLOAT_INPUT, few_dims("input", zeros()), *GROUP_SIZE, *RANGE, *DTYPE, *PER_GROUP],
    ),
    "quantize_dynamic_per_tensor": (
        choose(dtype=I8),
        [*ONLY_FLOAT_INPUT, *RANGE, *SYMMETRIC, *DTYPE],
    ),
    "quantize_dynamic_per_token": (
        choose(dtype=I8),
        [*ONLY_FLOAT_INPUT, few_dims("input", zeros()), *RANGE, *SYMMETRIC, *DTYPE],
    ),
    "quantize_dynamic_per_group": (
        choose(group_size=2, dtype=I8),
        [*ONLY_FLOAT_INPUT, few_dims("input", zeros()), *GROUP_SIZE, *RANGE, *SYMMETRIC, *DTYPE],
    ),
    "quantize_per_token": (
        quantize(2, 1),
        [*FLOAT_INPUT, few_dims("input", zeros()), *RANGE, *DTYPE, *PER_TOKEN],
    ),
    "dequantize_per_tensor": (dequantize(), [*CODE_INPUT, *PER_TENSOR]),
    "dequantize_per_channel": (
        dequantize(2, axis=0),
        [*CODE_INPUT, few_dims("input", zeros(dtype=I8)), *AXIS, *PER_CHANNEL],
    ),
    "dequantize_per_group": (
        dequantize(2, 2, group_size=2),
        [*CODE_INPUT, few_dims("input", zeros(dtype=I8)), *GROUP_SIZE, *PER_GROUP],
    ),
    "dequantize_per_token": (
        dequantize(2, 1),
        [*CODE_INPUT, few_dims("input", zeros(dtype=I8)), *PER_TOKEN],
    ),
    "fake_quantize_per_tensor": (
        fake_quantize(),
        [*FLOAT_INPUT, *RANGE, *PER_TENSOR],
    ),
    "fake_quantize_per_channel": (
        fake_quantize(2, axis=0),
        [
            *FLOAT_INPUT,
            few_dims("input", zeros()),
            *AXIS,
            *RANGE,
            *PER_CHANNEL,
        ],
    ),
    "fake_quantize_per_tensor_backward": (
        backward(),
        [*FLOAT_INPUT, *RANGE, *PER_TENSOR, *GRAD],
    ),
    "fake_quantize_per_channel_backward": (
        backward(2, axis=0),
        [
            *FLOAT_INPUT,
            Wrong(
                {"input": zeros(), "grad": zeros()},
                "input must have 1 or more dimensions, but got 0: add them with .unsqueeze(0)",
            ),
            *AXIS,
            *RANGE,
            *PER_CHANNEL,
            *GRAD,
        ],
    ),
    "quantization_error": (
        {"original": zeros(2, 3), "approximation": zeros(2, 3)},
        [
            *none("original", "approximation"),
            *(not_error_operand("original", zeros(2, 3, dtype=d)) for d in (I8, *STRANGE)),
            *(not_error_operand("approximation", zeros(2, 3, dtype=d)) for d in (I8, *STRANGE)),
            *(
                shape_of("approximation", zeros(*s), [2, 3], "that of original")
                for s in [(3, 2), (2, 1), (), (2, 3, 1), (6,)]
            ),
            device_of("approximation", zeros(2, 3), "original"),
            Wrong(
                {"original": zeros(0, 3), "approximation": zeros(0, 3)},
                "original must not be empty, but got shape [0, 3]: pass at least one value, for "
                "the error of none is not defined",
            ),
        ],
    ),
    "pack_bits": (
        {"input": zeros(2, 3, dtype=I8), "num_bits": 4},
        [
            *(not_byte("input", zeros(2, 3, dtype=d)) for d in (F32, I16, *STRANGE)),
            few_dims("input", zeros(dtype=I8)),
            *(num_bits(given) for given in (1, 9, LOWEST, HUGE)),
        ],
    ),
    "unpack_bits": (
        {"packed": zeros(2, 3, dtype=U8), "num_bits": 4, "last_dim": 6, "dtype": I8},
        [
            Wrong(
                {"packed": zeros(2, 3, dtype=I8)},
                f"packed must be uint8, but got {NAMES[I8]}: pass what pack_bits returned",
            ),
            few_dims("packed", zeros(dtype=U8)),
            *(num_bits(given) for given in (1, 9, LOWEST, HUGE)),
            *(
                Wrong(
                    {"dtype": d},
                    f"dtype must be int8 or uint8, but got {name_of(d)}: pass the dtype that was "
                    "packed",
                )
                for d in (I16, *STRANGE, NO_DTYPE)
            ),
            *(impossible_last_dim(given) for given in (-1, 13, LOWEST, 2**61, HUGE)),
            last_dim(0, 0),
            last_dim(4, 2),
            last_dim(7, 4),
        ],
    ),
    "int8_matmul": (
        {"a": zeros(2, 3, dtype=I8), "b": zeros(3, 4, dtype=I8)},
        [
            *none("a", "b"),
            *(not_byte("a", zeros(2, 3, dtype=d)) for d in (F32, I16, *STRANGE)),
            *(not_byte("b", zeros(3, 4, dtype=d)) for d in (F32, I16, *STRANGE)),
            few_dims("a", zeros(3, dtype=I8), 2),
            other_dims(zeros(3, dtype=I8)),
            other_dims(zeros(2, 3, 4, dtype=I8)),
            Wrong(
                {"a": zeros(5, 2, 3, dtype=I8), "b": zeros(1, 3, 4, dtype=I8)},
                "b must have the leading dimensions of a, [5, 2, 3], but got [1, 3, 4]: nothing is "
                "broadcast, expand it first",
            ),
            Wrong(
                {"b": zeros(4, 3, dtype=I8)},
                "b must have 3 rows, as a has columns, but got shapes [2, 3] and [4, 3]: a weight "
                "[out_features, in_features] is passed as weight.t()",
            ),
            device_of("b", zeros(3, 4, dtype=I8), "a"),
            deep_matmul(131071, I8, I8),
            deep_matmul(65793, U8, I8),
            deep_matmul(65793, I8, U8),
            deep_matmul(33025, U8, U8),
        ],
    ),
    "pack_weight": (
        {"weight": zeros(3, 5, dtype=I8)},
        [
            *(
                not_int8("weight", zeros(3, 5, dtype=d), "quantize it with quantize_per_channel")
                for d in (F32, U8, *STRANGE)
            ),
            *(
                Wrong(
                    {"weight": zeros(*s, dtype=I8)},
                    f"weight must be [out_features, in_features], but got shape {list(s)}: flatten "
                    "the dimensions after the first",
                )
                for s in [(5,), (2, 3, 5)]
            ),
        ],
    ),
    "unpack_weight": (
        {"packed": PACKED, "out_features": 3, "in_features": 5},
        [
            not_int8("packed", zeros(1, 2, 16, 4), "pass what pack_weight returned"),
            *(
                packed_shape({"packed": zeros(*s, dtype=I8)}, "packed", [1, 2, 16, 4], list(s))
                for s in [(1, 16, 4), (1, 2, 4, 16), (2, 2, 16, 4), (1, 1, 16, 4), (3, 5)]
            ),
            packed_shape(ONE_TOO_MANY, "packed", [2, 2, 16, 4], [1, 2, 16, 4]),
            packed_shape({"in_features": 9}, "packed", [1, 3, 16, 4], [1, 2, 16, 4]),
            *(features("out_features", given) for given in (-1, 2**31, LOWEST, HUGE)),
            *(features("in_features", given) for given in (-1, 2**31, LOWEST, HUGE)),
        ],
    ),
    "int8_matmul_packed": (
        {
            "a": zeros(2, 5, dtype=I8),
            "packed_weight": PACKED,
            "out_features": 3,
            "weight_sum": zeros(3, dtype=I32),
        },
        [
            *none("a", "packed_weight"),
            *(not_byte("a", zeros(2, 5, dtype=d)) for d in (F32, I16, *STRANGE)),
            few_dims("a", zeros(dtype=I8)),
            not_int8("packed_weight", zeros(1, 2, 16, 4), "pass what pack_weight returned"),
            packed_shape(
                {"packed_weight": zeros(3, 5, dtype=I8)}, "packed_weight", [1, 2, 16, 4], [3, 5]
            ),
            *(width("a", zeros(2, n, dtype=I8), "5 to 8") for n in (0, 4, 9)),
            packed_shape(ONE_TOO_MANY, "packed_weight", [2, 2, 16, 4], [1, 2, 16, 4]),
            *(features("out_features", given) for given in (-1, 2**31, LOWEST, HUGE)),
            dtype_of("weight_sum", zeros(3), I32),
            shape_of("weight_sum", zeros(4, dtype=I32), [3], SUM),
            device_of("weight_sum", zeros(3, dtype=I32), "a"),
            device_of("packed_weight", PACKED, "a"),
            deep_packed(65793, "a", U8),
            deep_packed(131071, "a", I8),
        ],
    ),
    "linear_dynamic": (
        {"input": zeros(2, 5), **LAYER},
        [
            not_float("input", zeros(2, 5, dtype=F64)),
            not_float("input", zeros(2, 5, dtype=I8)),
            *OF_A_LAYER,
            deep_packed(65793, "input", F32),
        ],
    ),
    "linear_static": (
        {
            "input": zeros(2, 5),
            "input_scale": zeros(),
            "input_zero_point": zeros(dtype=I32),
            **LAYER,
            "output_scale": zeros(),
            "output_zero_point": zeros(dtype=I32),
        },
        [
            not_static_input(zeros(2, 5, dtype=F64)),
            not_static_input(zeros(2, 5, dtype=I32)),
            *none("input_scale", "input_zero_point"),
            *(
                wrong
                for name, dtype in [
                    ("input_scale", F32),
                    ("input_zero_point", I32),
                    ("output_scale", F32),
                    ("output_zero_point", I32),
                ]
                for wrong in [
                    several_params(name, zeros(0, dtype=dtype)),
                    several_params(name, zeros(3, dtype=dtype)),
                    dtype_of(name, zeros(dtype=F64), dtype),
                    device_of(name, zeros(dtype=dtype), "input"),
                ]
            ),
            *OF_A_LAYER,
            alone("output_scale"),
            alone("output_zero_point"),
            output_dtype(F32, requantized=True),
            output_dtype(I16, requantized=True),
            output_dtype(U8, requantized=False),
            output_dtype(I8, requantized=False),
            output_dtype(I32, requantized=False),
            *(
                output_dtype(d, requantized)
                for d in (F64, *STRANGE, NO_DTYPE)
                for requantized in (False, True)
            ),
            deep_packed(65793, "input", F32),
            deep_packed(65793, "input", U8),
            deep_packed(131071, "input", I8),
        ],
    ),
    "histogram_observe_": (
        {**STATE, "input": zeros(2, 3)},
        [
            *OF_A_STATE,
            *none("input"),
            not_float("input", zeros(2, 3, dtype=F64)),
            not_float("input", zeros(2, 3, dtype=I32)),
            device_of("input", zeros(2, 3), "counts"),
        ],
    ),
    "histogram_qparams": (
        {**STATE, **LIMITS, "method": "mse", "percentile": 99.99},
        [
            *OF_A_STATE,
            *RANGE,
            *SYMMETRIC,
            *(method(given) for given in ("", "MSE", "minmax ", "kl")),
            *(
                percentile(given)
                for given in (50.0, 0.9999, -1.0, 100.5, math.inf, -math.inf, math.nan)
            ),
        ],
    ),
}


OUT_REPAIR = "pass torch.empty_like(input, dtype=...), nothing is resized or converted"


def of_out(wanted: torch.dtype) -> list[Wrong]:
    return [
        *none("out"),
        *(
            Wrong(
                {"out": zeros(2, 3, dtype=d)},
                f"out must be {NAMES[wanted]}, but got {NAMES[d]}: {OUT_REPAIR}",
            )
            for d in (I64, F64, *STRANGE)
        ),
        *(
            Wrong(
                {"out": zeros(*s, dtype=wanted)},
                f"out must have shape [2, 3], that of input, but got {list(s)}: {OUT_REPAIR}",
            )
            for s in [(), (3,), (2, 1), (1, 3), (3, 2), (6,), (2, 3, 1), (2, 4)]
        ),
        device_of("out", zeros(2, 3, dtype=wanted), "input"),
    ]


def _with_out(operator: str) -> tuple[Arguments, list[Wrong]]:
    """What is wrong with the operator is so for its .out overload."""
    right, wrong = _TABLE[operator]
    dtype = I8 if operator.startswith("quantize") else F32
    return {**right, "out": zeros(2, 3, dtype=dtype)}, [*wrong, *of_out(dtype)]


def refusals(operator: str) -> list[Refusal]:
    """Of an operator, or of an overload, `operator.overload`."""
    name, _, overload = operator.partition(".")
    right, wrong = _with_out(name) if overload == "out" else _TABLE[name]
    return [Refusal(right, one) for one in wrong]
