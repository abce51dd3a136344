"""A Hearth that a load test starts, kills, and starts again."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Gateway:
    """A `hearth serve` on one model, which can be killed and started again on the same data and ports."""

    def __init__(self, options, folder, model, graph, env=None):
        self.programs = options.programs
        self.hearth = options.programs / "hearth"
        self.folder = folder
        self.model = model
        version = folder / "store" / model / "1"
        version.mkdir(parents=True)
        (version / graph).write_bytes((options.shared / "models" / graph).read_bytes())
        for file in (ROOT / "examples/models" / model).iterdir():
            (version / file.name).write_bytes(file.read_bytes())
        self.env = {**os.environ, **(env or {})}
        self.log = open(folder / "log", "ab")
        self.port, self.s3_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(
            [
                self.hearth, "serve", "--store", self.folder / "store", "--data", self.folder / "data",
                "--listen", f"127.0.0.1:{self.port}", "--s3-listen", f"127.0.0.1:{self.s3_port}",
                "--grpc-listen", "", "--listing-interval-s", "5",
            ],
            stdout=self.log, stderr=self.log, env=self.env,
        )
        self.wait_until_ready()

    def wait_until_ready(self):
        while True:
            if self.process.poll() is not None:
                raise SystemExit(f"hearth ended with {self.process.returncode}; see {self.log.name}")
            try:
                with urllib.request.urlopen(f"{self.url}/v2/models/{self.model}/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.05)

    def measure(self):
        """Serves until the model has been measured, as happens when nobody calls, and serves it so."""
        self.start()
        while not list((self.folder / "data/measurements").glob("*.json")):
            time.sleep(0.1)
        self.stop()
        self.start()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def children(self):
        """Returns its processes, by their numbers, and what they are called."""
        children = {}
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                for pid in (task / "children").read_text().split():
                    children[int(pid)] = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                # It has ended meanwhile.
                continue
        return children

    def workers(self):
        return [pid for pid, name in self.children().items() if name == "hearth-worker"]

    def command(self, *words, check=True):
        command = [self.hearth, *words, "--endpoint", self.url]
        done = subprocess.run(command, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise SystemExit(f"hearth {' '.join(map(str, words))}: {done.stderr}")
        return done.stdout

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def counts(self, service):
        """Returns the jobs of a service by their state."""
        return self.get(f"/system/logs/{service}?counts=true")["counts"]

    def metric(self, name):
        """Returns a metric of the model."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"hearth_{name}{{"))

    def apply(self, fdl):
        """Makes the services of a definition."""
        file = self.folder / "service.yaml"
        file.write_text(fdl)
        self.command("apply", file)

    def load(self, *options):
        """Has `hearth-loadtests load` ask its model; returns what it reports."""
        command = [self.programs / "hearth-loadtests", "load", "--url", f"{self.url}/run/{self.model}", "--json", *options]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

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
