#!/usr/bin/env python3
"""Writes the newest exporters' files of every case in fixtures, beside what Debian's PyTorch made
of the same network (make_parity.py): newest_script.onnx and newest_dynamo.onnx, and for tiny_gpt
with F.scaled_dot_product_attention newest_script_fused.onnx and newest_dynamo_fused.onnx.

Needs torch, onnx and onnxscript from PyPI (made with 2.15, 1.23 and 0.7)."""

import copy
import io
import pathlib
import warnings

import onnx
import torch

import networks

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
NAMES = {"input_names": ["input"], "output_names": ["logits"]}


def save(model, path):
    for node in model.graph.node:  # where in the source a node came from: no use here
        node.doc_string = ""
        del node.metadata_props[:]
    for value in model.graph.value_info:
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    path.write_bytes(model.SerializeToString())


def export_script(case, path, fold):
    buffer = io.BytesIO()
    torch.onnx.export(
        copy.deepcopy(case.network), (case.x,), buffer, dynamo=False, do_constant_folding=fold,
        training=torch.onnx.TrainingMode.TRAINING,
        dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}}, **NAMES)
    save(onnx.load_from_string(buffer.getvalue()), path)


def export_dynamo(case, path, fold):
    # Optimised, batch normalisation is folded into convolutions: another network would train.
    normalises = any(isinstance(part, torch.nn.BatchNorm2d) for part in case.network.modules())
    program = torch.onnx.export(
        copy.deepcopy(case.network), (case.x,), dynamo=True, optimize=fold and not normalises,
        dynamic_shapes=({0: torch.export.Dim("N")},), **NAMES)
    save(program.model_proto, path)


def main():
    warnings.simplefilter("ignore")
    for out in sorted(FIXTURES.iterdir()):
        case = networks.make(out.name)
        fold = not out.name.endswith("_tied")  # folding copies a tied matrix
        for suffix in ("", "_fused") if out.name == "tiny_gpt" else ("",):
            for part in case.network.modules():
                if isinstance(part, networks.CausalAttention):
                    part.fused = suffix == "_fused"
            export_script(case, out / f"newest_script{suffix}.onnx", fold)
            export_dynamo(case, out / f"newest_dynamo{suffix}.onnx", fold)


main()
