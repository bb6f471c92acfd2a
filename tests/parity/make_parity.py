#!/usr/bin/python3
"""Writes what PyTorch makes of one of the networks in networks.py, for tests/parity/parity.cc.

Usage: make_parity.py OUT NAME...   writes OUT/NAME/ for each. Runs with Debian's python3-torch; the
same numbers every time.

  model.onnx      the network as torch.onnx.export writes it for training
  x.npy           the batch: float32 (N, C, H, W), or int64 (N, T) tokens
  labels.npy      int64: a class a sample, or a token a place
  logits.npy      float32 (rows, classes); rows: samples, or places
  gradients.npy   float32: of the mean cross-entropy by every parameter, one after the other
  sgd.npy, adamw.npy   float32: the parameters after OPTIMIZER_SCALES steps of torch.optim.SGD and
                  AdamW, whose gradients are gradients.npy times these scales
  case.json       names, shapes and checksums of the parameters, in order; the losses of STEPS steps
                  of SGD on this one batch; what the optimisers were given; PyTorch's own spread

PyTorch computes all of this in float64: what is judged stands against the true value, not against
one of many float32 roundings. The spread says how far PyTorch itself stays away from it in float32,
in every way of WAYS (each sums in another order): the worst of them for each gradient (norm), and
for the losses (root mean square over the steps). Where a rectifier's input is within rounding of
its kink, a gradient is a matter of luck, and the few ways may all have the same: gradients of
weights moved by a rounding count as well.
"""

import contextlib
import copy
import io
import json
import pathlib
import sys
import warnings
import zlib

import numpy
import torch
import torch.nn.functional as F

import networks

STEPS = 10
MOMENTUM = 0.9
MAX_SPREAD = 1e-3
NUDGES = 4
OPTIMIZER_SCALES = [1.0, -0.5, 2.0]  # powers of two: no rounding
SGD = {"rate": 0.5, "momentum": 0.9, "weight_decay": 0.01}
ADAMW = {"rate": 0.01, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


# Name: what to enter, and whether the batch is turned round.
WAYS = {
    "one thread": (lambda: threads(1), False),
    "two threads": (lambda: threads(2), False),
    "without oneDNN": (lambda: torch.backends.mkldnn.flags(enabled=False), False),
    "batch reversed": (lambda: threads(1), True),
}


def loss_of(network, x, labels):
    logits = network(x).flatten(0, -2)
    return logits, F.cross_entropy(logits, labels.flatten())


class Run:
    """Logits and gradients of one step, and the losses of all."""

    def __init__(self, case, double=False, reverse=False, steps=STEPS):
        network = copy.deepcopy(case.network)
        x, labels = case.x, case.labels
        if reverse:
            x, labels = x.flip(0), labels.flip(0)
        if double:
            network = network.double()
            x = x.double() if x.is_floating_point() else x
        optimizer = torch.optim.SGD(network.parameters(), case.rate, MOMENTUM)
        self.losses = []
        for step in range(steps):
            optimizer.zero_grad()
            logits, loss = loss_of(network, x, labels)
            loss.backward()
            self.losses.append(loss.item())
            if step == 0:
                self.gradients = [p.grad.numpy().astype(numpy.float64)
                                  for p in network.parameters()]
                self.logits = logits.detach().numpy()
            optimizer.step()


def nudged(case, seed):
    """The case with every weight moved by at most a rounding of float32."""
    generator = torch.Generator().manual_seed(seed)
    network = copy.deepcopy(case.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 1 + 2.0**-23 * (2 * torch.rand(parameter.shape, generator=generator) - 1)
    return case._replace(network=network)


def float32_runs(case):
    for enter, reverse in WAYS.values():
        with enter():
            yield Run(case, reverse=reverse)
    for seed in range(NUDGES):
        yield Run(nudged(case, seed), steps=1)


def spread_of(case, truth):
    """How far float32 stays away from the truth, at worst: losses, and every gradient."""
    losses, gradients = 0.0, [0.0] * len(truth.gradients)
    for run in float32_runs(case):
        gradients = [max(before, float(numpy.linalg.norm(got - want)))
                     for before, got, want in zip(gradients, run.gradients, truth.gradients)]
        if len(run.losses) == STEPS:
            difference = numpy.subtract(run.losses, truth.losses)
            losses = max(losses, float(numpy.sqrt(numpy.mean(difference ** 2))))
    return losses, gradients


def after_optimizer(case, gradients, make):
    network = copy.deepcopy(case.network).double()
    parameters = list(network.parameters())
    optimizer = make(parameters)
    for scale in OPTIMIZER_SCALES:
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = torch.from_numpy(gradient.astype(numpy.float64) * scale)
        optimizer.step()
    return [p.detach().numpy() for p in parameters]


def sgd(parameters):
    return torch.optim.SGD(parameters, SGD["rate"], SGD["momentum"],
                           weight_decay=SGD["weight_decay"])


def adamw(parameters):
    return torch.optim.AdamW(parameters, ADAMW["rate"], (ADAMW["beta1"], ADAMW["beta2"]),
                             ADAMW["epsilon"], ADAMW["weight_decay"])


def checksums(parameter):
    """CRC-32 of the float32 values, and of a matrix's transpose: exporters fold transposes away."""
    values = parameter.detach().numpy()
    turned = values.T if values.ndim == 2 else values
    return {"crc": zlib.crc32(values.tobytes()), "crc_transposed": zlib.crc32(turned.tobytes())}


def export(case, path, **options):
    """As a user would, who wants to train it."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            copy.deepcopy(case.network), (case.x,), str(path), input_names=["input"],
            output_names=["logits"], dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
            training=torch.onnx.TrainingMode.TRAINING, **options)


def flat(arrays):
    return numpy.concatenate([a.ravel() for a in arrays]).astype(numpy.float32)


def write(out, name):
    case = networks.make(name)
    truth = Run(case, double=True)
    losses, gradients = spread_of(case, truth)
    if not losses < MAX_SPREAD:
        sys.exit(f"{name}: {losses:.1e} of spread: too high a rate, these losses show nothing")
    out.mkdir(parents=True, exist_ok=True)
    # Folding copies a tied matrix: only unfolded it stays one.
    export(case, out / "model.onnx", do_constant_folding=not name.endswith("_tied"))
    numpy.save(out / "x.npy", case.x.numpy())
    numpy.save(out / "labels.npy", case.labels.flatten().numpy())
    numpy.save(out / "logits.npy", truth.logits.astype(numpy.float32))
    gradient = [g.astype(numpy.float32) for g in truth.gradients]
    numpy.save(out / "gradients.npy", flat(gradient))
    numpy.save(out / "sgd.npy", flat(after_optimizer(case, gradient, sgd)))
    numpy.save(out / "adamw.npy", flat(after_optimizer(case, gradient, adamw)))
    parameters = [
        {"name": parameter_name, "shape": list(parameter.shape), **checksums(parameter),
         "spread": spread}
        for (parameter_name, parameter), spread in zip(case.network.named_parameters(), gradients)]
    text = json.dumps({
        "torch": torch.__version__, "rate": case.rate, "momentum": MOMENTUM,
        "losses": truth.losses, "loss_spread": losses, "optimizer_scales": OPTIMIZER_SCALES,
        "sgd": SGD, "adamw": ADAMW, "parameters": parameters}, indent=1)
    (out / "case.json").write_text(text + "\n")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    for name in sys.argv[2:]:
        write(pathlib.Path(sys.argv[1]) / name, name)


if __name__ == "__main__":
    main()
