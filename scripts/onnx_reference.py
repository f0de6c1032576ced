#!/usr/bin/env python3
"""Records what ONNX Runtime computes, as the reference for the tests of src/nn.

    pip install onnx onnxruntime numpy
    python3 scripts/onnx_reference.py [WEIGHTS_DIR [OTHER_WEIGHTS]]        # default: .deps/weights

It writes into tests/fixtures/nn:

operators.json
    A list of cases, one for each operator and its important attributes:
    {"name", "model", "runs": [{"shape", "outputs": [{"shape", "values"}]}]}.
    `model` is an ONNX file of a few nodes, `values` are little-endian float32 numbers, both in base64. Number i of
    an input is (((i * 37 + 11) % 101) - 50) / 16, exact in float32, so inputs are not recorded.
slices.json
    {"length", "cases": [[start, end, step, places]]}: which places of an axis of that length `Slice` gives.
networks.json
    Networks on made RGB images. The red, green and blue (c = 0, 1, 2) bytes of pixel x, y of image n
    are (37 x + 59 y + 101 c + 83 n) % 256.
    "detector": {"size": [width, height], "images", "stride", "outputs": [{"shape", "rows", "column_sums"}]}:
    the input is blue, green, red minus 104, 117, 127; `rows` has every stride-th row of each image, `column_sums` the
    sum over the rows of the absolute values, per image and column.
    "embedder": {"images", "rows"}: the input is (byte - 127.5) / 127.5, images of 112x112, each run alone.
    "sface": the same of SFace, whose input is the byte.
    "retail_0095": the same of face-reidentification-retail-0095 in OTHER_WEIGHTS (NOTICE.md), see `for_retail_0095`.
embedders.json
    {name: {"model", "rows"}}: small embedders as published files are made, and what they give for three made images.
detectors.json
    {"scrfd" | "yunet": {"model", "runs": [{"size", "boxes", "scores", "landmarks"}]}}: small networks with outputs like theirs,
    and the rows of all levels for made images 0, 0 and 1. The input of the first is (byte - 127.5) / 128, of the second
    the byte, blue first.
script_outputs.pt
    A TorchScript module that returns a tuple of a tensor and a list of two: |x|, [-x, x + 1]. (Tracing in tch cannot
    make one.)
"""

import base64
import json
import pathlib
import sys
import zipfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "nn"


def encode(array):
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


def made_input(shape):
    index = np.arange(int(np.prod(shape)), dtype=np.int64)
    return ((((index * 37 + 11) % 101) - 50) / 16).astype(np.float32).reshape(shape)


def weight(*shape):
    """Numbers that are unlike those of the input, all exact in float32."""
    index = np.arange(int(np.prod(shape)), dtype=np.int64)
    return ((((index * 29 + 7) % 61) - 30) / 32).astype(np.float32).reshape(shape)


def ints(*values):
    return np.array(values, np.int64)


def floats(*values):
    return np.array(values, np.float32)


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def session(model_bytes):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])


class Operators:
    """Collects the cases."""

    def __init__(self):
        self.cases = []

    def add(self, name, shapes, nodes, weights=None, opset=17, typed=(), declared=None):
        """A graph from `x` to `y`, `y2`, ...; `shapes` are the inputs to record it for.

        `weights` become initializers; those named in `typed` keep their numbers in the typed field.
        """
        weights = weights or {}
        produced = [output for n in nodes for output in n.output]
        outputs = sorted(output for output in produced if output in ("y", "y2", "y3"))
        declared = declared or [f"d{place}" for place in range(len(shapes[0]))]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, declared)],
            [helper.make_empty_tensor_value_info(output) for output in outputs],
            [self.initializer(key, value, key in typed) for key, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        model.producer_name = ""
        # The types of the outputs, which ONNX Runtime wants and the importer does not read.
        inferred = onnx.shape_inference.infer_shapes(model)
        for output, source in zip(model.graph.output, inferred.graph.output):
            elem_type = source.type.tensor_type.elem_type
            output.type.tensor_type.elem_type = elem_type
        data = model.SerializeToString()
        run = session(data)
        runs = []
        for shape in shapes:
            results = run.run(outputs, {"x": made_input(shape)})
            for result in results:
                assert np.isfinite(result.astype(np.float64)).all(), name
            runs.append(
                {
                    "shape": list(shape),
                    "outputs": [{"shape": list(r.shape), "values": encode(r.astype(np.float32))} for r in results],
                }
            )
        self.cases.append({"name": name, "model": base64.b64encode(data).decode(), "runs": runs})

    @staticmethod
    def initializer(name, value, typed):
        if isinstance(value, TensorProto):
            value.name = name
            return value
        if not typed:
            return numpy_helper.from_array(value, name)
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        return helper.make_tensor(name, kind, value.shape, value.ravel().tolist())

    def one(self, name, shape, operator, weights=None, inputs="x", opset=17, outputs="y", **attributes):
        """A case of a single node."""
        self.add(name, [shape], [node(operator, inputs, outputs, **attributes)], weights, opset)


def elementwise(cases):
    image = (2, 3, 4, 5)
    for operator in ("Abs", "Ceil", "Erf", "Exp", "Floor", "Neg", "Relu", "Round", "Sigmoid", "Softplus", "Tanh"):
        cases.one(operator.lower(), image, operator)
    cases.one("hard_swish", image, "HardSwish")
    for operator in ("Log", "Sqrt", "Reciprocal"):
        nodes = [node("Abs", "x", "a"), node("Add", "a one", "b"), node(operator, "b", "y")]
        cases.add(operator.lower(), [image], nodes, {"one": floats(1)})
    for operator in ("Add", "Sub", "Mul"):
        cases.one(operator.lower(), image, operator, {"w": weight(3, 1, 5)}, "x w")
        cases.one(operator.lower() + "_left", (4, 1), operator, {"w": weight(2, 3, 1, 5)}, "w x")
    cases.one("div", image, "Div", {"w": weight(4, 1) + floats(2)}, "x w")
    cases.add("div_ints", [image], [node("Cast", "x", "i", to=7), node("Div", "i w", "d"), node("Cast", "d", "y", to=1)], {"w": ints(-1, 2, 3, -4, 7)})
    nodes = [node("Abs", "x", "a"), node("Pow", "a w", "y")]
    cases.add("pow", [image], nodes, {"w": floats(0, 0.5, 1, 2, 3)})
    cases.one("pow_int_exponent", image, "Pow", {"w": ints(2)}, "x w")
    for operator in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        nodes = [node(operator, "x w", "b"), node("Where", "b x w", "y"), node("Not", "b", "n"), node("Cast", "n", "y2", to=1)]
        cases.add(operator.lower(), [(3, 5)], nodes, {"w": floats(-2.4375, -0.125, 0, 2.1875, 3)})
    nodes = [node("Greater", "x w", "a"), node("Less", "x v", "b"), node("And", "a b", "c"), node("Or", "a b", "d"), node("Cast", "c", "y", to=1), node("Cast", "d", "y2", to=6)]
    cases.add("and_or", [image], nodes, {"w": floats(0), "v": floats(1)})
    for operator in ("Max", "Min", "Sum"):
        cases.one(operator.lower(), image, operator, {"w": weight(3, 1, 1), "v": weight(5)}, "x w v")
    cases.one("clip_attributes", image, "Clip", opset=10, min=-1.0, max=0.5)
    cases.one("clip_attribute_min", image, "Clip", opset=10, min=0.25)
    cases.one("clip", image, "Clip", {"low": np.float32(-1).reshape(()), "high": np.float32(2).reshape(())}, "x low high")
    cases.add("clip_max", [image], [helper.make_node("Clip", ["x", "", "high"], ["y"])], {"high": np.float32(1).reshape(())})
    cases.one("elu", image, "Elu", alpha=0.7)
    cases.one("gelu", image, "Gelu", opset=20)
    cases.one("gelu_tanh", image, "Gelu", opset=20, approximate="tanh")
    cases.one("hard_sigmoid", image, "HardSigmoid", alpha=0.3, beta=0.4)
    cases.one("leaky_relu", image, "LeakyRelu", alpha=0.1)
    cases.one("leaky_relu_default", image, "LeakyRelu")
    cases.one("prelu", image, "PRelu", {"w": weight(3, 1, 1)}, "x w")
    cases.one("prelu_one", image, "PRelu", {"w": floats(0.3)}, "x w")
    cases.one("prelu_columns", image, "PRelu", {"w": weight(5)}, "x w")
    cases.one("prelu_rank_2", (4, 6), "PRelu", {"w": weight(6)}, "x w")
    for operator in ("Softmax", "LogSoftmax"):
        cases.one(f"{operator.lower()}_11", image, operator, opset=11)
        cases.one(f"{operator.lower()}_11_axis_2", image, operator, opset=11, axis=2)
        cases.one(f"{operator.lower()}_13", image, operator, opset=13)
        cases.one(f"{operator.lower()}_13_axis_1", image, operator, opset=13, axis=1)


def convolutions(cases):
    image = (2, 4, 7, 9)
    one = lambda name, w, **a: cases.one("conv_" + name, image, "Conv", {"w": w}, "x w", **a)
    cases.one("conv", image, "Conv", {"w": weight(6, 4, 3, 3), "b": weight(6)}, "x w b", pads=[1, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3], dilations=[1, 1], group=1)
    one("groups", weight(8, 2, 3, 3), group=2)
    one("depthwise", weight(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1])
    one("dilated", weight(2, 4, 3, 2), dilations=[2, 3])
    one("asymmetric", weight(2, 4, 3, 3), pads=[0, 1, 2, 0], strides=[2, 1])
    one("same_upper", weight(2, 4, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2])
    one("same_lower", weight(2, 4, 3, 2), auto_pad="SAME_LOWER", strides=[3, 2])
    one("valid", weight(2, 4, 3, 3), auto_pad="VALID")
    cases.one("conv_1d", (2, 3, 11), "Conv", {"w": weight(4, 3, 3), "b": weight(4)}, "x w b", pads=[2, 1], strides=[2])
    cases.add("conv_dynamic_weight", [(4, 4, 3, 3)], [node("Conv", "w x", "y")], {"w": weight(1, 4, 5, 5)})
    up = lambda name, w, **a: cases.one("conv_transpose_" + name, image, "ConvTranspose", {"w": w}, "x w", **a)
    cases.one("conv_transpose", image, "ConvTranspose", {"w": weight(4, 3, 3, 3), "b": weight(3)}, "x w b", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    up("groups", weight(4, 2, 2, 2), group=2, strides=[2, 2])
    up("asymmetric", weight(4, 1, 3, 3), pads=[0, 1, 2, 0], strides=[1, 2])
    up("dilated", weight(4, 1, 3, 3), dilations=[2, 1])


def pools(cases):
    image = (2, 3, 7, 10)
    for operator, short in (("MaxPool", "max"), ("AveragePool", "average")):
        one = lambda name, **a: cases.one(f"{short}_pool_{name}", image, operator, **a)
        one("plain", kernel_shape=[2, 3])
        one("stride", kernel_shape=[2, 2], strides=[2, 2])
        one("pads", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        one("asymmetric", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 2])
        one("ceil", kernel_shape=[2, 2], strides=[2, 3], ceil_mode=1)
        one("ceil_pads", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)
        one("same_upper", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER")
        one("same_lower", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_LOWER")
        cases.one(f"{short}_pool_1d", (2, 3, 9), operator, kernel_shape=[3], strides=[2], pads=[1, 1])
    cases.one("max_pool_dilated", image, "MaxPool", kernel_shape=[2, 2], dilations=[2, 3])
    cases.one("average_pool_counts_pads", image, "AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    cases.one("average_pool_counts_pads_ceil", image, "AveragePool", opset=19, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1, ceil_mode=1)
    cases.one("global_average_pool", image, "GlobalAveragePool")
    cases.one("global_max_pool", image, "GlobalMaxPool")


def matrices_and_norms(cases):
    cases.one("matmul", (2, 3, 4), "MatMul", {"w": weight(4, 5)}, "x w")
    cases.one("matmul_broadcast", (3, 4), "MatMul", {"w": weight(2, 2, 5, 3)}, "w x")
    cases.one("matmul_vector", (3, 4), "MatMul", {"w": weight(4)}, "x w")
    cases.one("gemm", (3, 4), "Gemm", {"w": weight(4, 5), "c": weight(5)}, "x w c")
    cases.one("gemm_transposed", (4, 3), "Gemm", {"w": weight(5, 4), "c": weight(3, 1)}, "x w c", transA=1, transB=1, alpha=0.5, beta=2.0)
    cases.one("gemm_no_summand", (3, 4), "Gemm", {"w": weight(4, 5)}, "x w")
    statistics = {"s": weight(3), "b": weight(3)[::-1].copy(), "m": floats(0.5, -1, 0), "v": floats(1, 2, 0.25)}
    cases.one("batch_norm", (2, 3, 4, 5), "BatchNormalization", statistics, "x s b m v", epsilon=1e-3)
    cases.one("batch_norm_7_rank_2", (4, 3), "BatchNormalization", statistics, "x s b m v", opset=7, momentum=0.9)
    per_number = {"s": weight(3, 4, 5), "b": weight(5, 4, 3).reshape(3, 4, 5), "m": weight(3, 4, 5) / 2, "v": weight(3, 4, 5) ** 2 + 0.5}
    cases.one("batch_norm_8_per_number", (2, 3, 4, 5), "BatchNormalization", {k: v.astype(np.float32) for k, v in per_number.items()}, "x s b m v", opset=8, spatial=0)
    cases.one("instance_norm", (2, 3, 4, 5), "InstanceNormalization", {"s": weight(3), "b": weight(3)}, "x s b", epsilon=1e-2)
    cases.one("layer_norm", (2, 3, 8), "LayerNormalization", {"s": weight(8), "b": weight(8)}, "x s b", epsilon=1e-3)
    cases.one("layer_norm_axis", (2, 3, 8), "LayerNormalization", {"s": weight(3, 8)}, "x s", axis=1)
    zeros = {"w": floats(0, 1, 1).reshape(3, 1)}
    for order in (1, 2):
        nodes = [node("Mul", "x w", "m"), node("LpNormalization", "m", "y", axis=1, p=order)]
        cases.add(f"lp_norm_{order}", [(3, 6)], nodes, zeros)
    cases.one("lp_norm_default", (2, 3, 4), "LpNormalization")
    for operator in ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"):
        name = operator.lower()
        cases.one(f"{name}_all", (2, 3, 4), operator, opset=11)
        cases.one(f"{name}_axes", (2, 3, 4), operator, opset=11, axes=[-1, 1], keepdims=0)
        cases.one(f"{name}_18", (2, 3, 4), operator, {"a": ints(0, -1)}, "x a", opset=18)
    cases.one("reduce_none", (2, 3), "ReduceSum", opset=13, noop_with_empty_axes=1)
    cases.add("reduce_sum_ints", [(2, 3, 4)], [node("Shape", "x", "s"), node("ReduceSum", "s", "y", keepdims=0)])


def shapes(cases):
    image = (2, 3, 4, 5)
    cases.one("identity", image, "Identity")
    cases.one("dropout", image, "Dropout", opset=10, ratio=0.4)
    cases.one("dropout_13", image, "Dropout", {"r": np.float32(0.4).reshape(())}, "x r")
    nodes = [node("Dropout", "x", "y m"), node("Cast", "m", "y2", to=1)]
    cases.add("dropout_mask", [image], nodes)
    for axis in (0, 1, 3, 4, -1):
        cases.one(f"flatten_{axis}", image, "Flatten", axis=axis)
    cases.one("reshape", image, "Reshape", {"s": ints(0, -1, 2)}, "x s")
    cases.one("reshape_fixed", image, "Reshape", {"s": ints(5, 24)}, "x s")
    cases.one("reshape_allow_zero", (2, 0, 3), "Reshape", {"s": ints(0, 7)}, "x s", allowzero=1)
    cases.one("transpose", image, "Transpose", perm=[0, 2, 3, 1])
    cases.one("transpose_default", image, "Transpose")
    cases.one("squeeze_attribute", (1, 3, 1, 2), "Squeeze", opset=11, axes=[0, -2])
    cases.one("squeeze", (1, 3, 1, 2), "Squeeze", {"a": ints(2)}, "x a")
    cases.one("squeeze_all", (1, 3, 1, 2), "Squeeze")
    cases.one("unsqueeze_attribute", (3, 2), "Unsqueeze", opset=11, axes=[3, 0])
    cases.one("unsqueeze", (3, 2), "Unsqueeze", {"a": ints(-1, 1)}, "x a")
    cases.one("expand", (3, 1), "Expand", {"s": ints(2, 1, 4)}, "x s")
    cases.one("tile", (2, 3), "Tile", {"r": ints(2, 3)}, "x r")
    cases.add("shape", [image], [node("Shape", "x", "y")], opset=13)
    cases.add("shape_part", [image], [node("Shape", "x", "y", start=1, end=-1)])
    cases.one("concat", image, "Concat", {"w": weight(2, 1, 4, 5)}, "x w x", axis=-3)
    cases.one("gather", image, "Gather", {"i": ints(2, -1, 0, 0).reshape(2, 2)}, "x i", axis=1)
    cases.one("gather_number", image, "Gather", {"i": np.int64(-2).reshape(())}, "x i", axis=3)
    cases.one("slice_attributes", image, "Slice", opset=9, starts=[1, -3], ends=[9, -1], axes=[1, 3])
    cases.one("slice_attributes_all", (4, 5), "Slice", opset=9, starts=[1, 0], ends=[3, -2])
    steps = {"s": ints(-1, 0, 100), "e": ints(-100, 4, 0), "a": ints(1, 2, -1), "t": ints(-1, 3, -2)}
    cases.one("slice", image, "Slice", steps, "x s e a t")
    empty = {"s": ints(3), "e": ints(1), "a": ints(3)}
    cases.one("slice_empty", image, "Slice", empty, "x s e a")
    far = {"s": ints(-(2**63)), "e": ints(2**63 - 1), "a": ints(3), "t": ints(2**63 - 1)}
    cases.one("slice_far", image, "Slice", far, "x s e a t")
    cases.one("split_equal", (4, 6), "Split", outputs="y y2 y3", opset=11, axis=1)
    cases.one("split_attribute", (4, 6), "Split", outputs="y y2", opset=11, axis=-1, split=[2, 4])
    cases.one("split", (4, 6), "Split", {"s": ints(1, 3)}, "x s", outputs="y y2")
    cases.one("split_18", (7, 2), "Split", outputs="y y2 y3", opset=18, num_outputs=3)
    for mode in ("constant", "reflect", "edge"):
        cases.one(f"pad_attributes_{mode}", image, "Pad", opset=10, mode=mode, pads=[0, 1, 2, 1, 0, 0, 1, 3])
        cases.one(f"pad_{mode}", image, "Pad", {"p": ints(1, 0, 3, 0, 0, 2, 1, 0), "v": np.float32(1.5).reshape(())}, "x p v", mode=mode)
    cases.one("pad_wrap", image, "Pad", {"p": ints(0, 0, 1, 2, 0, 0, 2, 0)}, "x p", opset=19, mode="wrap")
    cases.one("pad_cuts", image, "Pad", {"p": ints(0, 0, -1, 2, 0, 0, 0, -3)}, "x p")
    axes = {"p": ints(1, 2, 0, 1), "v": np.float32(0).reshape(()), "a": ints(-1, 1)}
    cases.one("pad_axes", image, "Pad", axes, "x p v a", opset=18)


def constants(cases):
    for name, attributes in {
        "value": {"value": numpy_helper.from_array(weight(3))},
        "float": {"value_float": 0.5},
        "floats": {"value_floats": [1.0, 2.0, 3.0]},
    }.items():
        cases.add(f"constant_{name}", [(2, 3)], [node("Constant", "", "c", **attributes), node("Mul", "x c", "y")])
    for name, attributes in {"int": {"value_int": 1}, "ints": {"value_ints": [1, 0]}}.items():
        cases.add(f"constant_{name}", [(2, 3)], [node("Constant", "", "c", **attributes), node("Gather", "x c", "y", axis=1)])
    nodes = [node("Shape", "x", "s"), node("ConstantOfShape", "s", "c", value=numpy_helper.from_array(floats(2.5))), node("Mul", "x c", "y")]
    cases.add("constant_of_shape", [(2, 3)], nodes)
    nodes = [node("Shape", "x", "s"), node("ConstantOfShape", "s", "c"), node("Add", "x c", "y")]
    cases.add("constant_of_shape_default", [(2, 3)], nodes)
    nodes = [node("Shape", "x", "s"), node("Gather", "s one", "n"), node("Range", "zero n step", "r"), node("Cast", "r", "y", to=1), node("Range", "n minus back", "r2"), node("Cast", "r2", "y2", to=1)]
    number = lambda value: np.int64(value).reshape(())
    cases.add("range", [(2, 7), (1, 4)], nodes, {"one": number(1), "zero": number(0), "step": number(2), "minus": number(-2), "back": number(-3)})
    real = lambda value: np.float32(value).reshape(())
    nodes = [node("Range", "a b c", "r"), node("Add", "x r", "y")]
    cases.add("range_floats", [(2, 4)], nodes, {"a": real(0.5), "b": real(2.4), "c": real(0.5)})
    nodes = [node("Cast", "x", "i", to=6), node("Cast", "i", "y", to=1), node("Cast", "x", "b", to=9), node("Cast", "b", "y2", to=1), node("Cast", "x", "d", to=11), node("Cast", "d", "y3", to=1)]
    cases.add("cast", [(3, 20)], nodes)
    for kind in (np.float32, np.float64, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_):
        value = np.array([0, 1, 1, 0, 1] if kind is np.bool_ else [0, 1, 2, 100, 7]).astype(kind)
        for typed in (False, True):
            name = f"weight_{np.dtype(kind).name}_{'typed' if typed else 'raw'}"
            nodes = [node("Cast", "w", "f", to=1), node("Mul", "x f", "y")]
            cases.add(name, [(2, 5)], nodes, {"w": value}, typed=("w",) if typed else ())
    bits = np.array([0x3F80, 0xC020, 0x4149], np.uint16)
    raw = helper.make_tensor("w", TensorProto.BFLOAT16, [3], bits.tobytes(), raw=True)
    cases.add("weight_bfloat16_raw", [(2, 3)], [node("Cast", "w", "f", to=1), node("Mul", "x f", "y")], {"w": raw})
    computed = [node("Add", "w v", "s"), node("Mul", "s v", "t"), node("Mul", "x t", "y"), node("Identity", "t", "y2")]
    cases.add("constants_are_folded", [(2, 3)], computed, {"w": weight(3), "v": floats(2)})


def quantised(cases):
    """Weights that are kept as integers, and values that go through them."""
    whole = (np.arange(24, dtype=np.int64) * 37 % 255 - 128).reshape(4, 6)

    def one(name, x, scale, zero_point=None, opset=21, output=(4, 6), **attributes):
        weights = {"w": x, "s": scale} | ({} if zero_point is None else {"z": zero_point})
        nodes = [node("DequantizeLinear", " ".join(weights), "d", **attributes), node("Mul", "x d", "y")]
        cases.add(f"dequantize_{name}", [output], nodes, weights, opset)

    number = lambda value, kind: kind(value).reshape(())
    one("tensor", whole.astype(np.int8), number(0.125, np.float32), opset=10)
    one("tensor_uint8", (whole + 128).astype(np.uint8), number(0.125, np.float32), number(128, np.uint8), opset=13)
    one("axis", whole.astype(np.int8), weight(6) + 2, (np.arange(6) - 3).astype(np.int8), opset=13)
    one("axis_0", (whole + 128).astype(np.uint8), weight(4) + 2, np.arange(4).astype(np.uint8), axis=0)
    one("int32", (whole * 1000).astype(np.int32), weight(4) + 2, axis=-2)
    one("half", whole.astype(np.int8), (weight(6) + 2).astype(np.float16), opset=23, output_dtype=TensorProto.FLOAT)
    one("blocks", whole.astype(np.int8), weight(4, 3) + 2, (np.arange(12) - 6).reshape(4, 3).astype(np.int8), axis=1, block_size=2)
    one("blocks_uneven", whole.astype(np.int8), weight(4, 2) + 2, block_size=4)
    one("blocks_whole_row", (whole + 128).astype(np.uint8), weight(4, 1) + 2, np.arange(4).reshape(4, 1).astype(np.uint8), block_size=6)
    one("blocks_axis_0", whole.astype(np.int8), weight(2, 6) + 2, axis=0, block_size=2)
    one("blocks_vector", np.arange(6).astype(np.int8), weight(2) + 2, axis=0, block_size=3, output=(2, 6))
    small = np.arange(15).reshape(3, 5)
    for kind, low in ((TensorProto.UINT4, 0), (TensorProto.INT4, -8)):
        name = TensorProto.DataType.Name(kind).lower()
        for typed in (False, True):
            x = helper.make_tensor("w", kind, small.shape, (small + low).ravel().tolist())
            if not typed:
                x = numpy_helper.from_array(numpy_helper.to_array(x), "w")
            one(f"{name}_{'typed' if typed else 'raw'}", x, weight(5) + 2, output=(3, 5))

    def through(name, scale, zero_point=None, opset=21, shape=(4, 6), **attributes):
        weights = {"s": scale} | ({} if zero_point is None else {"z": zero_point})
        back = {key: value for key, value in attributes.items() if key in ("axis", "block_size")}
        given = " ".join(weights)
        nodes = [node("QuantizeLinear", f"x {given}", "q", **attributes), node("DequantizeLinear", f"q {given}", "y", **back), node("Cast", "q", "y2", to=1)]
        cases.add(f"quantize_{name}", [shape], nodes, weights, opset)

    # Divided by these every second number of the input lies in the middle of two integers; the last are beyond the range.
    through("halves", number(0.125, np.float32), number(3, np.int8), opset=10)
    through("saturates", number(0.015625, np.float32), number(128, np.uint8), opset=13)
    through("no_zero_point", number(0.25, np.float32), opset=17)
    through("axis", np.abs(weight(6)) + 0.5, (np.arange(6) - 3).astype(np.int8), opset=13, axis=1)
    through("axis_0", np.abs(weight(4)) + 0.5, np.arange(4).astype(np.uint8), axis=0)
    through("blocks", np.abs(weight(4, 3)) + 0.5, (np.arange(12) - 6).reshape(4, 3).astype(np.int8), axis=1, block_size=2)


def resizes(cases):
    image = (1, 2, 5, 6)
    none = np.array([], np.float32)
    for scales in ((1, 1, 2, 2), (1, 1, 0.6, 0.5), (1, 1, 1.7, 2.3)):
        label = "_".join(str(s) for s in scales[2:])
        cases.one(f"upsample_7_{label}", image, "Upsample", opset=7, mode="nearest", scales=[float(s) for s in scales]) if min(scales) >= 1 else None
        cases.one(f"resize_10_{label}", image, "Resize", {"s": floats(*scales)}, "x s", opset=10, mode="nearest")
        cases.one(f"resize_10_linear_{label}", image, "Resize", {"s": floats(*scales)}, "x s", opset=10, mode="linear")
    cases.one("upsample_9_linear", image, "Upsample", {"s": floats(1, 1, 2, 3)}, "x s", opset=9, mode="linear")
    modes = ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
    for coordinates in modes:
        for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
            nodes = [helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="nearest", nearest_mode=rounding, coordinate_transformation_mode=coordinates)]
            cases.add(f"resize_nearest_{coordinates}_{rounding}", [image], nodes, {"s": ints(1, 2, 8, 3)}, opset=13)
        nodes = [helper.make_node("Resize", ["x", "roi", "scales"], ["y"], mode="linear", coordinate_transformation_mode=coordinates)]
        for name, scales in {"up": (1, 1, 2, 1.5), "down": (1, 1, 0.7, 0.5), "one": (1, 1, 0.2, 3)}.items():
            cases.add(f"resize_linear_{coordinates}_{name}", [image], nodes, {"roi": none, "scales": floats(*scales)}, opset=11)
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel_symmetric")]
    cases.add("resize_linear_half_pixel_symmetric", [image], nodes, {"scales": floats(1, 1, 1.5, 0.7)}, opset=19)
    nodes = [helper.make_node("Resize", ["x", "", "", "s"], ["y"], axes=[2, 3], mode="nearest")]
    cases.add("resize_axes", [image], nodes, {"s": ints(10, 3)}, opset=18)


def chains(cases):
    """Shapes computed at run time, as exporters write them; each runs at several sizes."""
    sizes = [(1, 4, 6, 8), (2, 4, 5, 7), (3, 4, 1, 3)]
    spatial = [
        node("Shape", "x", "s"), node("Gather", "s two", "h"), node("Gather", "s three", "w"),
        node("Unsqueeze", "h", "h1", axes=[0]), node("Unsqueeze", "w", "w1", axes=[0]),
    ]
    number = lambda value: np.int64(value).reshape(())
    numbers = {"two": number(2), "three": number(3)}
    like = spatial + [
        node("MaxPool", "x", "p", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Concat", "h1 w1", "hw", axis=0), node("Shape", "p", "ps"), node("Slice", "ps zero until", "nc"),
        node("Concat", "nc hw", "size", axis=0),
        helper.make_node("Resize", ["p", "none", "none", "size"], ["r"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Add", "x r", "y"),
    ]
    cases.add("chain_resize_like", sizes, like, {**numbers, "zero": ints(0), "until": ints(2), "none": np.array([], np.float32)}, opset=11)
    floor = spatial + [
        node("Cast", "h1", "hf", to=1), node("Mul", "hf factor", "hm"), node("Floor", "hm", "hi"),
        node("Cast", "w1", "wf", to=1), node("Mul", "wf factor", "wm"), node("Floor", "wm", "wi"),
        node("Concat", "hi wi", "new", axis=0), node("Cast", "new", "newi", to=7), node("Slice", "s zero until", "nc"),
        node("Concat", "nc newi", "size", axis=0),
        helper.make_node("Resize", ["x", "none", "none", "size"], ["y"], mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    ]
    cases.add("chain_float_sizes", sizes, floor, {**numbers, "factor": floats(1.5), "zero": ints(0), "until": ints(2), "none": np.array([], np.float32)}, opset=11)
    rows = [
        node("Transpose", "x", "t", perm=[0, 2, 3, 1]), node("Shape", "t", "s"), node("Gather", "s zero", "n"),
        node("Unsqueeze", "n", "n1", axes=[0]), node("Concat", "n1 rest", "target", axis=0), node("Reshape", "t target", "y"),
    ]
    cases.add("chain_reshape_rows", sizes, rows, {"zero": number(0), "rest": ints(-1, 2)}, opset=11)
    halves = [
        node("Shape", "x", "s"), node("Gather", "s one", "c"), node("Div", "c two", "half"), node("Unsqueeze", "half", "h1", axes=[0]),
        node("Slice", "x zero h1 axis", "a"), node("Slice", "x h1 far axis", "b"), node("Concat", "b a", "y", axis=1),
    ]
    cases.add("chain_halves", sizes, halves, {"one": number(1), "two": number(2), "zero": ints(0), "axis": ints(1), "far": ints(2**62)}, opset=11)


def batches(cases):
    """Models with a declared batch of one; the tests run them at larger batches, too."""
    declared = [1, 4, 3, 3]
    nodes = [node("Mul", "x w", "m"), node("Reshape", "m s", "r"), node("MatMul", "r v", "y")]
    cases.add("batch_reshape", [(1, 4, 3, 3)], nodes, {"w": weight(4, 1, 1), "s": ints(1, -1), "v": weight(36, 5)}, declared=declared)
    nodes = [node("Shape", "x", "s"), node("Reshape", "s one_row", "row"), node("Cast", "row", "y", to=1), node("Flatten", "x", "y2")]
    cases.add("batch_shape_list", [(1, 4, 3, 3)], nodes, {"one_row": ints(1, -1)}, declared=declared)


def record_operators():
    cases = Operators()
    for group in (elementwise, convolutions, pools, matrices_and_norms, shapes, constants, quantised, resizes, chains, batches):
        group(cases)
    names = [case["name"] for case in cases.cases]
    assert len(names) == len(set(names)), "case names repeat"
    write("operators.json", cases.cases)


def record_slices():
    """Every start and end from well before the axis to well behind it, and the farthest there are, by every kind of step."""
    length, far = 4, 2**63 - 1
    names = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in "seat"]
    x = helper.make_tensor_value_info("x", TensorProto.INT64, [length])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [None])
    graph = helper.make_graph([helper.make_node("Slice", ["x", *"seat"], ["y"])], "slices", [x, *names], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    network = session(model.SerializeToString())
    indices = [-far, -(2**31), *range(-length - 3, length + 4), 2**31 - 2, 2**31 - 1, far]
    cases = []
    for step in [1, 2, 3, length, far, -1, -2, -3, -length, -far]:
        for start in indices:
            for end in indices:
                inputs = {"x": np.arange(length), "s": ints(start), "e": ints(end), "a": ints(0), "t": ints(step)}
                cases.append([start, end, step, network.run(None, inputs)[0].tolist()])
    text = ",\n".join(json.dumps(case) for case in cases)
    (FIXTURES / "slices.json").write_text(f'{{"length": {length}, "cases": [\n{text}\n]}}\n')
    print(f"slices.json: {len(cases)} cases")


def made_image(width, height, n):
    y, x, c = np.meshgrid(range(height), range(width), range(3), indexing="ij")
    return ((37 * x + 59 * y + 101 * c + 83 * n) % 256).astype(np.uint8)


def record_detector(path):
    network, recorded = session(path.read_bytes()), []
    for width, height, images in ((640, 480, 1), (250, 250, 1), (97, 61, 2), (33, 200, 3)):
        pixels = np.stack([made_image(width, height, n) for n in range(images)])
        blob = pixels[..., ::-1].astype(np.float32) - np.array([104, 117, 127], np.float32)
        outputs = network.run(None, {network.get_inputs()[0].name: np.ascontiguousarray(blob.transpose(0, 3, 1, 2))})
        stride = max(1, outputs[0].shape[1] // 61)
        recorded.append(
            {
                "size": [width, height],
                "images": images,
                "stride": stride,
                "outputs": [
                    {
                        "shape": list(o.shape),
                        "rows": encode(o[:, ::stride]),
                        "column_sums": np.abs(o.astype(np.float64)).sum(1).round(4).tolist(),
                    }
                    for o in outputs
                ],
            }
        )
    return recorded


def record_embedder(path, mean, scale, prepare=lambda image: image):
    network, images = session(without_stale_inputs(path)), 3
    rows = []
    for n in range(images):
        blob = (prepare(made_image(112, 112, n).astype(np.float32)) - mean) / scale
        blob = np.ascontiguousarray(blob.transpose(2, 0, 1)[None].astype(np.float32))
        rows.append(network.run(None, {network.get_inputs()[0].name: blob})[0][0])
    return {"images": images, "rows": encode(np.stack(rows))}


def for_retail_0095(image):
    """Columns 8 to 104 in a square of 128, blue first."""
    return resized(resized(image[:, 8:104, ::-1], 128).transpose(1, 0, 2), 128).transpose(1, 0, 2)


def resized(image, length):
    """Bilinear along the first dimension, pixels by their middles, like OpenCV's INTER_LINEAR."""
    places = np.clip((np.arange(length) + 0.5) * len(image) / length - 0.5, 0, len(image) - 1)
    first = np.minimum(places.astype(int), len(image) - 2)
    share = (places - first).astype(np.float32)[:, None, None]
    return image[first] * (1 - share) + image[first + 1] * share


def without_stale_inputs(path):
    """SFace still declares the weights that were replaced as inputs, and ONNX Runtime wants a value for each."""
    model = onnx.load(path)
    read = {name for n in model.graph.node for name in n.input}
    kept = [value for value in model.graph.input if value.name in read]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model.SerializeToString()


def record_embedders():
    """Small embedders with what published files have beside convolutions; the input is (byte - 127.5) / 127.5."""
    weights = {"c": weight(8, 3, 4, 4), "cb": weight(8), "g": weight(16, 8), "gb": weight(16)}
    stem, tail = node("Conv", "x c cb", "a", strides=[4, 4]), [node("GlobalAveragePool", "b", "p"), node("Flatten", "p", "f")]
    body = [stem, node("Relu", "a", "b"), *tail]
    plain = [*body, node("Gemm", "f g gb", "y", transB=1)]
    with_norm = [*body, node("Gemm", "f g gb", "raw", transB=1), node("ReduceL2", "raw", "norm", axes=[1], keepdims=1), node("Div", "raw norm", "y")]
    step = {"s": np.float32(1 / 127.5).reshape(()), "z": np.int8(0).reshape(())}
    quantised = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"), node("Conv", "d c cb", "a", strides=[4, 4]), *plain[1:]]
    cast = [node("Cast", "x", "h", to=TensorProto.FLOAT16), node("Cast", "h", "d", to=TensorProto.FLOAT), node("Conv", "d c cb", "a", strides=[4, 4]), *plain[1:]]
    turned = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t c cb", "a", strides=[4, 4]), *plain[1:]]
    # As MXNet wrote them: statistics of channels under an attribute that says otherwise.
    statistics = {"s": weight(8) + 1.5, "o": weight(8), "mu": weight(8) / 4, "va": np.abs(weight(8)) + 0.5}
    mxnet = [stem, node("BatchNormalization", "a s o mu va", "b", spatial=0), *tail, plain[-1]]
    image, half = ["N", 3, 112, 112], TensorProto.FLOAT16
    halves = {key: value.astype(np.float16) for key, value in weights.items()}
    models = {
        "plain": (plain, weights, "y", 17, image, TensorProto.FLOAT),
        "with_norm": (with_norm, weights, "y norm", 12, image, TensorProto.FLOAT),
        "norm_first": (with_norm, weights, "norm y", 12, image, TensorProto.FLOAT),
        "two_embeddings": (with_norm, weights, "y raw", 12, image, TensorProto.FLOAT),
        "through_integers": (quantised, weights | step, "y", 17, image, TensorProto.FLOAT),
        "casts": (cast, weights, "y", 17, image, TensorProto.FLOAT),
        "mxnet": (mxnet, weights | statistics, "y", 8, image, TensorProto.FLOAT),
        "half": (plain, halves, "y", 17, image, half),
        "pixel_by_pixel": (turned, weights, "y", 13, ["N", 112, 112, 3], TensorProto.FLOAT),
        "of_160": (plain, weights, "y", 13, [1, 3, 160, 160], TensorProto.FLOAT),
    }
    return {name: record_small(*model) for name, model in models.items()}


def record_small(nodes, weights, outputs, opset, shape, kind):
    values = [helper.make_tensor_value_info(output, kind, ["N", "D"]) for output in outputs.split()]
    initializers = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", kind, shape)], values, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()
    blob = np.stack([made_image(112, 112, n) for n in range(3)]).astype(np.float32)
    blob = ((blob - 127.5) / 127.5).astype(np.float16 if kind == TensorProto.FLOAT16 else np.float32)
    blob = blob if shape[-1] == 3 else np.ascontiguousarray(blob.transpose(0, 3, 1, 2))
    # With its optimisations: without them it refuses what MXNet wrote.
    network = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rows = network.run(["y"], {"x": blob})[0] if 160 not in shape else np.zeros(0)
    return {"model": base64.b64encode(model).decode(), "rows": encode(rows.astype(np.float32))}


def record_detectors():
    """Networks of a few numbers whose outputs are laid out as those of InsightFace's SCRFD and of OpenCV Zoo's YuNet."""
    recorded = {}
    for kind in ("scrfd", "yunet"):
        nodes, weights = [], {}
        outputs = {"scrfd": {"score": 1, "bbox": 4, "kps": 10}, "yunet": {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}}[kind]
        for stride in (8, 16, 32):
            # The corner of each cell: made images are the same on average everywhere.
            nodes.append(node("MaxPool", "x", f"p{stride}", kernel_shape=[1, 1], strides=[stride, stride]))
            for place, (output, columns) in enumerate(outputs.items()):
                nodes += head(kind, f"{output}_{stride}", stride, columns, columns * (2 if kind == "scrfd" else 1), place, weights)
        # In the order of the files: all levels of an output before the next output.
        names = [f"{output}_{stride}" for output in outputs for stride in (8, 16, 32)]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
        graph = helper.make_graph(nodes, kind, [image], values, [numpy_helper.from_array(w, key) for key, w in weights.items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6).SerializeToString()
        runs = [record_levels(model, kind, names, size, n) for size, n in (((96, 64), 0), ((70, 33), 0), ((70, 33), 1))]
        recorded[kind] = {"model": base64.b64encode(model).decode(), "runs": runs}
    return recorded


def head(kind, name, stride, columns, channels, place, weights):
    """A convolution of single pixels and what brings it into rows; scores end in a sigmoid, far from faces for grey images."""
    is_score = columns == 1
    weights[f"{name}_w"] = weight(channels, 3, 1, 1) * np.float32(0.01 if kind == "yunet" else 1) + np.float32(place / 64)
    weights[f"{name}_b"] = weight(channels) * np.float32(0.25) - np.float32(4 if is_score else 0)
    weights[f"{name}_s"] = ints(-1, columns) if kind == "scrfd" else ints(1, -1, columns)
    order = [2, 3, 0, 1] if kind == "scrfd" else [0, 2, 3, 1]
    last = f"{name}_l" if is_score else name
    rows = [
        node("Conv", f"p{stride} {name}_w {name}_b", f"{name}_c"),
        node("Transpose", f"{name}_c", f"{name}_t", perm=order),
        node("Reshape", f"{name}_t {name}_s", last),
    ]
    return rows + ([node("Sigmoid", last, name)] if is_score else [])


def record_levels(model, kind, names, size, n):
    """Rows of all levels; a margin of zeros makes the sides multiples of 32 pixels."""
    width, height = (-(-side // 32) * 32 for side in size)
    pixels = np.zeros((height, width, 3), np.float32)
    pixels[: size[1], : size[0]] = made_image(*size, n)
    blob = (pixels - 127.5) / 128 if kind == "scrfd" else pixels[..., ::-1]
    blob = np.ascontiguousarray(blob.transpose(2, 0, 1)[None].astype(np.float32))
    found = dict(zip(names, session(model).run(names, {"x": blob})))
    rows = lambda output, columns: np.concatenate([found[f"{output}_{stride}"].reshape(-1, columns) for stride in (8, 16, 32)])
    scores = rows("score", 1) if kind == "scrfd" else np.sqrt(rows("cls", 1) * rows("obj", 1))
    return {"size": list(size), "boxes": encode(rows("bbox", 4)), "scores": encode(scores), "landmarks": encode(rows("kps", 10))}


def record_script():
    source = (
        "class Toy(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
        "  def forward(self: __torch__.Toy, x: Tensor) -> Tuple[Tensor, List[Tensor]]:\n"
        "    return (torch.abs(x), [torch.neg(x), torch.add(x, 1)])\n"
    )
    files = {
        "data.pkl": b"\x80\x02c__torch__\nToy\nq\x00)\x81}(ub.",  # an object of the class without attributes
        "code/__torch__.py": source.encode(),
        "constants.pkl": b"\x80\x02).",  # an empty tuple
        "version": b"3\n",
    }
    with zipfile.ZipFile(FIXTURES / "script_outputs.pt", "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo("toy/" + name), content)  # ZipInfo: a fixed date


def write(name, content):
    FIXTURES.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case) for case in content) if isinstance(content, list) else None
    text = f"[\n{lines}\n]\n" if lines else json.dumps(content, indent=1) + "\n"
    (FIXTURES / name).write_text(text)
    print(f"{name}: {len(text)} bytes")


def main():
    weights = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".deps" / "weights"
    record_operators()
    record_slices()
    detector = record_detector(weights / "retinaface-mobilenet0.25.onnx")
    embedder = record_embedder(weights / "mobilefacenet-512.onnx", 127.5, 127.5)
    sface = record_embedder(weights / "sface-128.onnx", 0, 1)
    record_script()
    recorded = {"detector": detector, "embedder": embedder, "sface": sface}
    if len(sys.argv) > 2:
        retail = pathlib.Path(sys.argv[2]) / "face-reidentification-retail-0095.onnx"
        recorded["retail_0095"] = record_embedder(retail, 0, 1, for_retail_0095)
    write("networks.json", recorded)
    write("embedders.json", record_embedders())
    write("detectors.json", record_detectors())


if __name__ == "__main__":
    main()
