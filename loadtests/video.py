#!/usr/bin/env python3
"""Gives a service a video, and one four times as long, and says how fast and in how much memory it is seen.

    cargo build --release -p gateway-server -p workers-server
    loadtests/video.py

Needs Python 3.9, ffmpeg, the release programs, and the model and video of `../shared` (`--shared`).
The limit for frames a second is what the machine's processors could do with ffmpeg's and the worker's
time for a frame, both measured in the same run: what is left of it is all that Hearth adds.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from gateway import ROOT, Gateway

MODEL = "yolox-nano"
GRAPH = "yolox_nano_416_dyn.onnx"
SERVICE = "films"
FDL = f"""functions:
  oscar:
    - local:
        name: {SERVICE}
        image: model:{MODEL}
        model: {{ score: 0.3, labels: [person] }}
        input: [{{ storage_provider: minio, path: {SERVICE}/in }}]
        output: [{{ storage_provider: minio, path: {SERVICE}/out }}]
"""
TICKS = os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--times", type=int, default=4, help="length of the second video, in times of the first")
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="video-") as scratch:
        folder = Path(scratch)
        once = options.shared / "media/vtest.avi"
        longer = folder / "longer.avi"
        subprocess.run(
            ["ffmpeg", "-v", "error", "-stream_loop", str(options.times - 1), "-i", once, "-c", "copy", longer],
            check=True,
        )
        first = see(options, folder / "first", once)
        second = see(options, folder / "second", longer)
    print(f"peak memory, {options.times} times as long: {second / first:.3f} (limit 1.100)")


def see(options, folder, video):
    """Has a gateway of its own see a video; returns the most memory that its processes took, in MB."""
    folder.mkdir()
    gateway = Gateway(options, folder, MODEL, GRAPH)
    gateway.measure()
    try:
        gateway.apply(FDL)
        # So long that the sizes of batches have been compared: what is tried once takes memory once.
        gateway.load(
            "--body", options.shared / "media/bus.jpg",
            "--concurrency", "64", "--duration", "20", "--warmup", "0",
        )
        return measure(gateway, video)
    finally:
        gateway.stop()


def measure(gateway, video):
    before = usage(gateway)
    began = time.monotonic()
    gateway.command("put", video, f"{SERVICE}/in/")
    most = {}
    n_looks = 0
    while True:
        counts = gateway.counts(SERVICE)
        if counts.get("succeeded") or counts.get("failed"):
            break
        # Waiting longer would pass for work, and looking at memory each time is some.
        if n_looks % 4 == 0:
            most = max(most, memory(gateway), key=lambda of: sum(of.values()))
        n_looks += 1
        time.sleep(0.05)
    seconds = time.monotonic() - began
    spent = {name: after - before[name] for name, after in usage(gateway).items()}

    gateway.command("get", f"{SERVICE}/out/", gateway.folder / "results")
    (lines,) = (gateway.folder / "results").rglob("*.jsonl")
    found = [len(json.loads(line)["predictions"]) for line in lines.read_text().splitlines()]
    n, cores = len(found), os.cpu_count()
    limit = cores / ((spent["ffmpeg"] + spent["workers"]) / n)
    print(f"{video.name}: {n} frames, {sum(found) / n:.3f} persons in the mean, {seconds:.1f} s with the upload")
    print(", ".join(f"{name} {time / n * 1e3:.2f} ms" for name, time in spent.items()), "of a processor a frame")
    print(f"{n / seconds:.1f} frames/s, {n / seconds / limit:.3f} of what {cores} processors can do (limit 0.900)")
    print(f"peak memory: {sum(most.values()):.0f} MB:", ", ".join(f"{name} {mb:.0f}" for name, mb in most.items()))
    return sum(most.values())


def usage(gateway):
    """Returns processor time in seconds: of the gateway, its workers, and the ffmpeg that have ended."""
    def times(pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        # utime, stime, cutime, cstime of proc(5).
        return [int(ticks) / TICKS for ticks in fields[11:15]]

    user, system, *ended = times(gateway.process.pid)
    workers = sum(sum(times(pid)[:2]) for pid in gateway.workers())
    return {"ffmpeg": sum(ended), "workers": workers, "gateway": user + system}


def memory(gateway):
    """Returns what the gateway and its children have in memory, by their names, in MB."""
    total = {}
    for pid, name in [(gateway.process.pid, "hearth"), *gateway.children().items()]:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        resident = sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        total[name] = total.get(name, 0.0) + resident / 1e3
    return total


if __name__ == "__main__":
    main()
