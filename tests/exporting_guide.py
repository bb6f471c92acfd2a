"""Runs what docs/exporting.md tells PyTorch users to do: every Python block, then `tempo train` on
each file that a block has written, then the way back into the module.

Usage: exporting_guide.py TEMPO_PROGRAM"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import torch

GUIDE = pathlib.Path(__file__).resolve().parent.parent / "docs/exporting.md"
SAMPLES = 24


def data_for(name, folder):
    random = np.random.RandomState(1)
    if name == "gpt.onnx":
        tokens = random.randint(0, 64, (SAMPLES, 17))
        x, y = tokens[:, :-1], tokens[:, 1:]
    else:
        x = random.rand(SAMPLES, 3, 32, 32).astype(np.float32)
        y = random.randint(0, 10, SAMPLES)
    np.save(folder / "x.npy", np.ascontiguousarray(x))
    np.save(folder / "y.npy", np.ascontiguousarray(y))
    return x


def check(tempo, name, model, load_trained, folder):
    x = data_for(name, folder)
    common = ["--data", f"npy:{folder}/x.npy,{folder}/y.npy", "--mean", "0", "--std", "1",
              "--batch", "8", "--offload", "all", "--workers", "local:1", "--report", "r.json"]
    subprocess.run([tempo, "train", "--model", name, "-o", "trained.onnx", "--steps", "2",
                    "--lr", "0.01", *common], check=True, capture_output=True)
    subprocess.run([tempo, "infer", "--model", "trained.onnx", "-o", "y.npy", *common], check=True,
                   capture_output=True)
    checks = json.loads(pathlib.Path("r.json").read_text())["checks"]
    assert checks["done"] > 0 and checks["failed"] == 0, checks
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_trained(model, "trained.onnx").eval()
    changed = sum(not torch.equal(before[key], value) for key, value in model.state_dict().items()
                  if key in dict(model.named_parameters()))
    assert changed == len(dict(model.named_parameters())), f"{name}: {changed} parameters changed"
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    got = np.load("y.npy")
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    print(f"{name}: {changed} parameters trained, predictions within {error:.1e} of PyTorch's, "
          f"{checks['done']} products checked")
    assert error < 1e-4, f"{name}: {error}"


def main():
    tempo = os.path.abspath(sys.argv[1])
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    assert len(blocks) == 4, f"{len(blocks)} blocks"
    made = []
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        names = {}
        for block in blocks:
            seen = set(os.listdir())
            torch.manual_seed(1)
            names = {}
            exec(compile(block, str(GUIDE), "exec"), names)
            made += [(file, names["model"]) for file in sorted(set(os.listdir()) - seen)]
        assert len(made) == 3, made
        for file, model in made:
            check(tempo, file, model, names["load_trained"], pathlib.Path(name))


main()
