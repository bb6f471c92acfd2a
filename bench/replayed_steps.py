"""Training steps that are all the same, measured inside the enclave and with a worker that replays
results (lab/replay_device.h) behind a shaped link: what bench/bandwidth-sweep and bench/overlap
share. A step is what the median one of a run took."""
import contextlib
import json
import os
import pathlib
import random
import shlex
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / "build/release/bin"
PORT = 7000
# Steps that do not count: the first compiles kernels, and the first few may raise rounds of checks.
WARM_UP = 3
# Runs until a worker knows all that steps ask of it, and until they ask for nothing else.
MAX_RUNS = 5


class Bench:
    """One model and batch on one link. The enclave has a core of its own where there are several; all
    else shares another one."""

    def __init__(self, link, model, batch, device, steps, real_time):
        self.link, self.batch, self.device, self.steps = link, batch, device, WARM_UP + steps
        self.cores = sorted(os.sched_getaffinity(0))
        self.scheduler = ["chrt", "-r", "1"] if real_time else []
        self.model = model
        self.folder = self.log = pathlib.Path()  # of the worker
        self.worker = None
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.log = self.folder / "worker.log"
        run([BIN / "tempo", "model", self.model, "--image", "3x32x32", "--classes", "10",
             "-o", self.folder / "model.onnx"])
        write_equal_samples(self.folder, self.batch * self.steps)
        return self

    def __exit__(self, *_):
        if self.worker:
            self.worker.terminate()
            self.worker.wait()
        self.stack.close()

    def plan(self, mb_s):
        """What `tempo plan` says, with its prediction for this link."""
        command = [BIN / "tempo", "plan", "--model", self.folder / "model.onnx", "--batch", self.batch,
                   "--threads", 1, "--workers", "local:1", "--link", f"{mb_s}MBps", "--json"]
        return json.loads(run(self.on_core(0, command)).stdout)

    def local_step(self):
        """Milliseconds of a step inside the enclave."""
        steps = self.train(["--scheme", "local"])
        return median(steps, "wall_ms") - median(steps, "queued_ms")

    def start_worker(self):
        """One that has recorded the steps, as fast as the link goes without a limit."""
        command = [BIN / "tempo-worker-lab", "--listen", f"tcp://{self.link.far_address}:{PORT}",
                   "--threads", 1, "--device", "replay", "--replay-model", self.device]
        log = self.stack.enter_context(open(self.log, "w", encoding="utf-8"))
        self.worker = subprocess.Popen(self.link.inside(self.link.far, self.on_core(-1, command)),
                                       stderr=log)
        for _ in range(MAX_RUNS):
            self.train(self.offloading())
            if "the recording is complete" in self.log.read_text(encoding="utf-8"):
                return
        raise SystemExit("steps differ: nothing to replay")

    def offloading(self):
        return ["--workers", f"tcp://{self.link.far_address}:{PORT}"]

    def offloaded_step(self):
        """A step that is replayed: {"wall_ms", "cpu_ms", "queued_ms"} of the enclave, and the bytes
        {"to_workers", "from_workers"}."""
        for _ in range(MAX_RUNS):
            before = self.log.read_text(encoding="utf-8").count("mismatch ")
            steps = self.train(self.offloading())
            # When the first steps raise rounds of checks depends a little on who is quicker.
            if self.log.read_text(encoding="utf-8").count("mismatch ") > before:
                continue
            report = json.loads((self.folder / "report.json").read_text())
            return {**{key: median(steps, key) for key in steps[0]},
                    **{way: report["bytes"][way] / report["steps_done"]
                       for way in ("to_workers", "from_workers")}}
        raise SystemExit("steps differ: figures would mean nothing")

    def train(self, flags):
        times = self.folder / "enclave"
        times.unlink(missing_ok=True)
        enclave = self.on_core(0, [BIN / "tempo-enclave-lab", "--insecure-repeat-steps",
                                   "--step-times", times])
        command = [BIN / "tempo", "train", "--model", self.folder / "model.onnx", "--data",
                   f"npy:{self.folder}/x.npy,{self.folder}/y.npy", "--batch", self.batch, "--lr", 0,
                   "--threads", 1, "--enclave-program", " ".join(enclave),
                   "-o", self.folder / "trained.onnx", "--report", self.folder / "report.json", *flags]
        run(self.link.inside(self.link.near, self.on_core(-1, command)))
        if json.loads((self.folder / "report.json").read_text())["checks"]["failed"]:
            raise SystemExit("a check failed: figures would mean nothing")
        return read_lines(times)[WARM_UP:]

    def on_core(self, index, command):
        pin = ["/usr/bin/taskset", "-c", str(self.cores[index])] if self.cores[1:] else []
        return [*pin, *self.scheduler, *map(str, command)]


def write_equal_samples(folder, count):
    """Epochs and steps shuffle them."""
    random.seed(1)
    for name, kind, shape, data in (
            ("x.npy", "|u1", (count, 3, 32, 32), random.randbytes(3 * 32 * 32) * count),
            ("y.npy", "<i8", (count,), (3).to_bytes(8, "little") * count)):
        head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
        head += " " * (117 - len(head)) + "\n"
        (folder / name).write_bytes(
            b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + data)


def run(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(map(str, command))}\n{done.stderr[-2000:]}")
    return done


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def median(steps, key):
    return statistics.median(step[key] for step in steps)
