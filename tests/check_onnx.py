#!/usr/bin/python3
"""Checks exported ONNX files with ONNX's own checker, and their predictions against PyTorch's.

Usage: check_onnx.py ONNX_FILES_PROGRAM FIXTURES_DIR. Ends with 77 (skipped) without python3-onnx.

Predictions come from the evaluator below, in float64 and straight from ONNX's operator
descriptions, so that nothing of Tempo is used to check Tempo.
"""

import math
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper
except ImportError as missing:
    print(f"skipped: {missing} (apt-get install python3-onnx)")
    sys.exit(77)

# What differs between float32 arithmetic in PyTorch and float64 here: sums of at most 100 products
# in a row of six layers, relative to outputs of about 1.
TOLERANCE = 1e-5


def windows(x, kernel, attributes, fill):
    """(N, C, out_h, out_w, kernel_h, kernel_w) of a padded input, and the padded counts."""
    strides = attributes.get("strides", [1, 1])
    pads = attributes.get("pads", [0, 0, 0, 0])
    dilations = attributes.get("dilations", [1, 1])
    assert attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
    assert attributes.get("ceil_mode", 0) == 0
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill)
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel)]
    out = [(size - span) // stride + 1 for size, span, stride in zip(x.shape[2:], spans, strides)]
    view = np.empty(x.shape[:2] + tuple(out) + tuple(kernel))
    for i in range(out[0]):
        for j in range(out[1]):
            rows = slice(i * strides[0], i * strides[0] + spans[0], dilations[0])
            columns = slice(j * strides[1], j * strides[1] + spans[1], dilations[1])
            view[:, :, i, j] = x[:, :, rows, columns]
    return view


def conv(a, x, w, b=None):
    assert a.get("group", 1) == 1
    y = np.einsum("ncijkl,ockl->noij", windows(x, w.shape[2:], a, 0), w)
    return y if b is None else y + b[:, None, None]


def batch_norm(a, x, scale, bias, mean, var):
    assert a.get("training_mode", 0) == 0
    scale = scale / np.sqrt(var + a.get("epsilon", 1e-5))
    return (x - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]


def gemm(a, x, w, b=0):
    assert a.get("alpha", 1) == 1 and a.get("beta", 1) == 1 and a.get("transA", 0) == 0
    return x @ (w.T if a.get("transB", 0) else w) + b


def softmax(a, x):
    assert x.ndim == 2 and a.get("axis", -1) in (1, -1)
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def dropout(a, x, ratio=0.5, training=False):
    assert not training
    return x


def reduce_mean(a, x, axes=None):
    axes = a.get("axes") if axes is None else axes
    return x.mean(axis=tuple(axes), keepdims=bool(a.get("keepdims", 1)))


def layer_norm(a, x, scale, bias=0):
    assert a.get("axis", -1) == -1
    d = x - x.mean(axis=-1, keepdims=True)
    variance = (d * d).mean(axis=-1, keepdims=True)
    return d / np.sqrt(variance + a.get("epsilon", 1e-5)) * scale + bias


def clip(a, x, low=None, high=None):
    return np.clip(x, a.get("min") if low is None else low, a.get("max") if high is None else high)


def hard_sigmoid(a, x):
    return np.clip(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1)


def reshape(a, x, target):
    target = [x.shape[i] if t == 0 and not a.get("allowzero", 0) else t
              for i, t in enumerate(target)]
    return x.reshape(target)


def shape(a, x):
    end = a.get("end")
    return np.array(x.shape[a.get("start", 0):end], dtype=np.int64)


def unsqueeze(a, x, axes=None):
    return np.expand_dims(x, tuple(a["axes"] if axes is None else axes))


def constant(a):
    name, value = next(iter(a.items()))
    return numpy_helper.to_array(value) if name == "value" else np.array(value)


OPERATORS = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": lambda a, x: windows(x, a["kernel_shape"], a, 0).mean(axis=(4, 5)),
    "BatchNormalization": batch_norm,
    "Cast": lambda a, x: x.astype(helper.tensor_dtype_to_np_dtype(a["to"])),
    "CastLike": lambda a, x, like: x.astype(like.dtype),
    "Clip": clip,
    "Concat": lambda a, *parts: np.concatenate(parts, axis=a["axis"]),
    "Constant": constant,
    "Conv": conv,
    "Div": lambda a, x, y: x / y,
    "Dropout": dropout,
    "Erf": lambda a, x: np.vectorize(math.erf)(x),
    "Expand": lambda a, x, target: x * np.ones(target, dtype=x.dtype),
    "Flatten": lambda a, x: x.reshape(int(np.prod(x.shape[:a.get("axis", 1)])), -1),
    "Gather": lambda a, x, i: np.take(x, i, axis=a.get("axis", 0)),
    "Gemm": gemm,
    "GlobalAveragePool": lambda a, x: x.mean(axis=(2, 3), keepdims=True),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": lambda a, x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Identity": lambda a, x: x,
    "LayerNormalization": layer_norm,
    "MatMul": lambda a, x, y: x @ y,
    "MaxPool": lambda a, x: windows(x, a["kernel_shape"], a, -np.inf).max(axis=(4, 5)),
    "Mul": lambda a, x, y: x * y,
    "Pad": lambda a, x, *rest: x,  # by nothing, which the fixtures' shapes show
    "Pow": lambda a, x, y: x ** y,
    "ReduceMean": reduce_mean,
    "Relu": lambda a, x: np.maximum(x, 0),
    "Reshape": reshape,
    "Shape": shape,
    "Sigmoid": lambda a, x: 1 / (1 + np.exp(-x)),
    "Softmax": softmax,
    "Sqrt": lambda a, x: np.sqrt(x),
    "Squeeze": lambda a, x: np.squeeze(x),
    "Sub": lambda a, x, y: x - y,
    "Tanh": lambda a, x: np.tanh(x),
    "Unsqueeze": unsqueeze,
}


def widen(array):
    return array.astype(np.float64) if array.dtype == np.float32 else array


def evaluate(model, x):
    values = {t.name: widen(numpy_helper.to_array(t)) for t in model.graph.initializer}
    values["input"] = widen(x)
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name] if name else None for name in node.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        values[node.output[0]] = widen(OPERATORS[node.op_type](attributes, *inputs))
    return values[model.graph.output[0].name]


def known_opset(model):
    version = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return version <= onnx.defs.onnx_opset_version()


def check_file(path):
    """ONNX's checker with shape inference, where this version of ONNX knows the opset."""
    model = onnx.load(str(path))
    if known_opset(model):
        onnx.checker.check_model(model, full_check=True)
    return model


def main():
    program, fixtures = sys.argv[1], pathlib.Path(sys.argv[2])
    checked = predicted = 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, str(fixtures), folder], check=True)
        for path in sorted(pathlib.Path(folder).glob("*.onnx")):
            model = check_file(path)
            checked += 1
            network = next((n for n in ("cnn", "mlp", "fresh_norms", "patterns")
                            if path.name.startswith(n + "_")), None)
            if network is None:
                continue
            x = np.load(fixtures / f"{network}.input.npy")
            wanted = np.load(fixtures / f"{network}.output.npy")
            if "_fixed_" in path.name:
                x, wanted = x[:1], wanted[:1]
            got = evaluate(model, x)
            worst = float(np.abs(got - wanted).max())
            print(f"{path.name}: {worst:.1e} from PyTorch's prediction")
            assert got.shape == wanted.shape and worst < TOLERANCE, path.name
            predicted += 1
    print(f"{checked} files pass ONNX's checker, {predicted} predict what PyTorch predicts")
    assert checked >= 28 and predicted >= 19, (checked, predicted)


main()
