#!/usr/bin/env python3
"""Writes the tiny graphs of this folder, which the engine's tests run.

    python3 -m venv /tmp/models && /tmp/models/bin/pip install onnx
    /tmp/models/bin/python make.py

README.md says what each is for.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

# By the Open Inference Protocol's names.
DATATYPES = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "fp32": TensorProto.FLOAT,
    "fp64": TensorProto.DOUBLE,
    "bytes": TensorProto.STRING,
}

node = helper.make_node
value = helper.make_tensor_value_info


def constant(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.array(values, dtype), name)


def write(name, nodes, inputs, outputs, constants=()):
    """Writes `name.onnx`; dimensions are numbers, or names where they are free."""
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    save(model, Path(__file__).with_name(f"{name}.onnx"))


write(
    "add_one",
    [node("Add", ["x", "one"], ["y"])],
    [value("x", FLOAT, ["batch", 4])],
    [value("y", FLOAT, ["batch", 4])],
    [constant("one", 1)],
)

write(
    "fixed_batch",
    [node("Add", ["x", "one"], ["y"])],
    [value("x", FLOAT, [2, 3])],
    [value("y", FLOAT, [2, 3])],
    [constant("one", 1)],
)

write(
    "two_inputs",
    [node("Cast", ["b"], ["factor"], to=FLOAT), node("Mul", ["a", "factor"], ["y"])],
    [value("a", FLOAT, ["batch", 2]), value("b", INT64, [1])],
    [value("y", FLOAT, ["batch", 2])],
)

for datatype, element in DATATYPES.items():
    shape = ["batch", "length"]
    write(
        f"identity_{datatype}",
        [node("Identity", ["x"], ["y"])],
        [value("x", element, shape)],
        [value("y", element, shape)],
    )

write(
    "sum_state",
    [
        node("ReduceSum", ["state", "axis"], ["sum"], keepdims=0),
        node("Add", ["input", "sum"], ["output"]),
        node("Unsqueeze", ["input", "axis"], ["step"]),
        node("Add", ["state", "step"], ["stateN"]),
    ],
    [value("input", FLOAT, ["batch", 3]), value("state", FLOAT, [2, "batch", 3])],
    [value("output", FLOAT, ["batch", 3]), value("stateN", FLOAT, [2, "batch", 3])],
    [constant("axis", [0], np.int64)],
)

# Declared for one batch of one size, as some exporters write it, though the network is convolutional.
write(
    "wrong_shape",
    [node("Conv", ["x", "kernel"], ["y"], strides=[4, 4])],
    [value("x", FLOAT, [10, 3, 32, 32])],
    [value("y", FLOAT, [10, 1, 8, 8])],
    [constant("kernel", np.full((1, 3, 4, 4), 1 / 48))],
)

write(
    "sequence_output",
    [node("SequenceConstruct", ["x"], ["y"])],
    [value("x", FLOAT, ["batch", 4])],
    [helper.make_tensor_sequence_value_info("y", FLOAT, ["batch", 4])],
)

write(
    "fails_at_run",
    [node("Gather", ["table", "index"], ["y"])],
    [value("index", INT64, ["batch"])],
    [value("y", FLOAT, ["batch"])],
    [constant("table", [10, 20, 30, 40])],
)

# An even number of negations: far too small for threads, so it takes as long on one core as on many.
NEGATIONS = 40_000
write(
    "slow",
    [
        node(
            "Loop",
            ["count", "", "x"],
            ["y"],
            body=helper.make_graph(
                [node("Identity", ["go"], ["on"]), node("Neg", ["before"], ["after"])],
                "negate",
                [value("step", INT64, []), value("go", TensorProto.BOOL, []), value("before", FLOAT, None)],
                [value("on", TensorProto.BOOL, []), value("after", FLOAT, None)],
            ),
        )
    ],
    [value("x", FLOAT, ["batch", 8])],
    [value("y", FLOAT, ["batch", 8])],
    [constant("count", NEGATIONS, np.int64)],
)

write(
    "picture_mean",
    [node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0)],
    [value("images", FLOAT, ["batch", 3, 8, 8])],
    [value("means", FLOAT, ["batch", 3])],
)

# Four anchors of a picture of 64 × 64 pixels, each `cx, cy, w, h`, and the part of a channel's
# mean that is its score; the third overlaps the first (IoU 0.88), the last never scores.
BOXES = np.array([[16, 16, 16, 16], [48, 48, 16, 24], [17, 16, 16, 16], [32, 32, 64, 64]])
WEIGHTS = np.array([1, 0.5, 0.9, 0])
by_channel = np.zeros((3, 6, len(BOXES)))
by_channel[0, 4] = by_channel[2, 5] = WEIGHTS
write(
    "tiny_detector",
    [
        node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        node("Gemm", ["means", "weights", "boxes"], ["flat"]),
        node("Reshape", ["flat", "shape"], ["output0"]),
    ],
    [value("images", FLOAT, ["batch", 3, 64, 64])],
    [value("output0", FLOAT, ["batch", 6, len(BOXES)])],
    [
        constant("weights", by_channel.reshape(3, -1)),
        constant("boxes", np.concatenate([BOXES.T, np.zeros((2, len(BOXES)))]).ravel()),
        constant("shape", [-1, 6, len(BOXES)], np.int64),
    ],
)

# Of the signature that answers of a Triton server were captured of (gateway/server/tests/it/conformance).
# Its weights are multiples of an eighth, so that sums of halves are exact.
write(
    "mlp",
    [node("MatMul", ["x", "weights"], ["y"])],
    [value("x", FLOAT, ["batch", 64])],
    [value("y", FLOAT, ["batch", 10])],
    [constant("weights", [[(7 * row + 13 * column) % 11 / 8 - 0.625 for column in range(10)] for row in range(64)])],
)

write(
    "sum_and_difference",
    [node("Add", ["a", "b"], ["sum"]), node("Sub", ["a", "b"], ["difference"])],
    [value("a", FLOAT, ["batch", 2]), value("b", FLOAT, ["batch", 2])],
    [value("sum", FLOAT, ["batch", 2]), value("difference", FLOAT, ["batch", 2])],
)
