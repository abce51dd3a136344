#!/usr/bin/env python3
"""Uploads many photos to a service's input and watches what becomes of them.

    cargo build --release -p gateway-server -p workers-server -p hearth-loadtests
    loadtests/uploads.py                     # 1,000 photos, beside the same through /run
    loadtests/uploads.py --photos 10000
    loadtests/uploads.py --chaos             # the gateway is killed three times, workers twenty times

Needs nothing but Python 3.9, the release programs and the models and photos of `../shared` (`--shared`).
Every photo is an object of its own name; its result has to be there, to say what `/run` says of the
same photo, and to come of one job. Ends with 1 where that is not so; rates are printed, not judged.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "yolox-nano"
SERVICE = "photos"


class Gateway:
    """A `hearth serve` that can be killed and started again on the same data and ports."""

    def __init__(self, programs, folder, store):
        self.hearth = programs / "hearth"
        self.data = folder / "data"
        self.store = store
        self.log = open(folder / "log", "ab")
        self.port, self.s3_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [
                self.hearth, "serve", "--store", self.store, "--data", self.data,
                "--listen", f"127.0.0.1:{self.port}", "--s3-listen", f"127.0.0.1:{self.s3_port}",
                "--grpc-listen", "", "--listing-interval-s", "5",
            ],
            stdout=self.log, stderr=self.log,
        )
        self.wait_until_ready()

    def wait_until_ready(self):
        while True:
            if self.process.poll() is not None:
                raise SystemExit(f"hearth ended with {self.process.returncode}; see {self.log.name}")
            try:
                with urllib.request.urlopen(f"{self.url}/v2/models/{MODEL}/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.05)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def workers(self):
        out = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True)
        return [int(pid) for pid in out.stdout.split()]

    def command(self, *words, check=True):
        command = [self.hearth, *words, "--endpoint", self.url]
        done = subprocess.run(command, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise SystemExit(f"hearth {' '.join(map(str, words))}: {done.stderr}")
        return done.stdout

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def counts(self):
        return self.get(f"/system/logs/{SERVICE}?counts=true")["counts"]

    def run(self, name, photo):
        request = urllib.request.Request(f"{self.url}/run/{name}", data=photo.read_bytes())
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["predictions"]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def saturation(programs, gateway, photos, seconds):
    """Returns how many photos a second `/run` answers to eight callers, the mean over the photos."""
    rates = []
    for photo in photos:
        out = subprocess.run(
            [
                programs / "hearth-loadtests", "load", "--url", f"{gateway.url}/run/{MODEL}",
                "--body", photo, "--concurrency", "8", "--duration", str(seconds), "--warmup", "1",
                "--timeout-ms", "20000", "--json",
            ],
            capture_output=True, text=True, check=True,
        ).stdout
        report = json.loads(out)
        rates.append(report["goodput_per_second"])
    # As many of each photo are uploaded: times add up, rates do not.
    return len(rates) / sum(1 / rate for rate in rates)


def harass(gateway, stop, killed):
    """Kills workers twenty times and the gateway three times, as long as there is work."""
    for step in range(1, 24):
        if stop.wait(1.0):
            return
        if step % 7 == 0 and killed["gateway"] < 3:
            gateway.kill()
            killed["gateway"] += 1
            gateway.start()
            continue
        for pid in gateway.workers()[:1]:
            try:
                os.kill(pid, signal.SIGKILL)
                killed["workers"] += 1
            except ProcessLookupError:
                pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--chaos", action="store_true")
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    options = parser.parse_args()

    media = options.shared / "media"
    photos = [media / name for name in ("bus.jpg", "zidane.jpg", "yolox_dog.jpg", "messi5.jpg", "building.jpg")]
    with tempfile.TemporaryDirectory(prefix="uploads-") as scratch:
        folder = Path(scratch)
        version = folder / "store" / MODEL / "1"
        version.mkdir(parents=True)
        (version / "yolox_nano.onnx").write_bytes((options.shared / "models/yolox_nano_416_dyn.onnx").read_bytes())
        for file in (ROOT / "examples/models" / MODEL).iterdir():
            (version / file.name).write_bytes(file.read_bytes())
        source = folder / "source"
        source.mkdir()
        for index in range(options.photos):
            (source / f"{index:05}.jpg").symlink_to(photos[index % len(photos)].resolve())

        gateway = Gateway(options.programs, folder, folder / "store")
        try:
            sys.exit(measure(options, gateway, photos, source, folder))
        finally:
            gateway.stop()


def measure(options, gateway, photos, source, folder):
    fdl = folder / "service.yaml"
    fdl.write_text(f"""functions:
  oscar:
    - local:
        name: {SERVICE}
        image: model:{MODEL}
        model: {{ score: 0.3 }}
        input: [{{ storage_provider: minio, path: {SERVICE}/in }}]
        output: [{{ storage_provider: minio, path: {SERVICE}/out }}]
""")
    gateway.command("apply", fdl)
    expected = [gateway.run(SERVICE, photo) for photo in photos]
    per_second = 0.0
    if not options.chaos:
        per_second = saturation(options.programs, gateway, photos, 4)
        print(f"/run, eight callers: {per_second:.1f} photos/s", flush=True)

    killed = {"gateway": 0, "workers": 0}
    stop = threading.Event()
    began = time.monotonic()
    chaos = threading.Thread(target=harass, args=(gateway, stop, killed))
    if options.chaos:
        chaos.start()
    # What is there already is not sent again, so an upload that was interrupted goes on.
    while True:
        put = subprocess.run(
            [gateway.hearth, "put", source, f"{SERVICE}/in/", "--skip-existing", "--endpoint", gateway.url],
            capture_output=True, text=True,
        )
        if put.returncode == 0:
            break
        if not options.chaos:
            raise SystemExit(put.stderr)
        time.sleep(0.5)
    uploaded = time.monotonic() - began
    while True:
        try:
            counts = gateway.counts()
        except (OSError, urllib.error.URLError):
            counts = None
        if counts and not counts.get("pending") and not counts.get("running"):
            break
        time.sleep(0.2)
    seconds = time.monotonic() - began
    stop.set()
    if options.chaos:
        chaos.join()

    got = folder / "results"
    gateway.command("get", f"{SERVICE}/out/", got)
    wrong = []
    found = {path.name: path for path in got.rglob("*.json")}
    for index in range(options.photos):
        path = found.get(f"{index:05}.jpg.json")
        if path is None:
            wrong.append(f"{index:05}.jpg: no result")
        elif not alike(json.loads(path.read_text())["predictions"], expected[index % len(expected)]):
            wrong.append(f"{index:05}.jpg: another result than /run's")
    counts = gateway.counts()
    print(f"{options.photos} photos: uploaded in {uploaded:.1f} s, all done after {seconds:.1f} s, "
          f"{options.photos / seconds:.1f} photos/s")
    if per_second:
        print(f"beside /run at saturation: {options.photos / seconds / per_second:.3f}")
    if options.chaos:
        print(f"killed: the gateway {killed['gateway']} times, workers {killed['workers']} times")
    print(f"results: {len(found)}, jobs: {counts}")
    if sum(counts.values()) != options.photos:
        wrong.append(f"{sum(counts.values())} jobs, expected one for each photo")
    if len(found) != options.photos:
        wrong.append(f"{len(found)} results, expected one for each photo")
    for line in wrong[:20]:
        print(f"wrong: {line}")
    print("all results are there, as /run gives them, of one job each" if not wrong else f"{len(wrong)} wrong")
    return 1 if wrong else 0


def alike(got, expected):
    """Whether both say the same; a batch of another size may move a score in its last digits."""
    return len(got) == len(expected) and all(
        one["label"] == other["label"] and abs(one["score"] - other["score"]) < 1e-3
        for one, other in zip(got, expected)
    )


if __name__ == "__main__":
    main()
