#!/usr/bin/env python3
"""Uploads many photos to a service's input and watches what becomes of them.

    cargo build --release -p gateway-server -p workers-server -p hearth-loadtests
    loadtests/uploads.py                     # 1,000 photos, beside the same through /run
    loadtests/uploads.py --photos 10000 --interactive   # and what callers of /run notice of them
    loadtests/uploads.py --chaos             # the gateway is killed three times, workers twenty times
    loadtests/uploads.py --minio target/lib/minio       # to a MinIO that is killed meanwhile, and every
                                             # tenth of its events is lost

Needs nothing but Python 3.9, the release programs and the models and photos of `../shared` (`--shared`).
Every photo is an object of its own name; its result has to be there, to say what `/run` says of the
same photo, and to come of one job. Ends with 1 where that is not so; rates are printed, not judged.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from gateway import ROOT, Gateway
from minio import Minio

MODEL = "yolox-nano"
GRAPH = "yolox_nano_416_dyn.onnx"
SERVICE = "photos"
PHOTOS = ("bus.jpg", "zidane.jpg", "yolox_dog.jpg", "messi5.jpg", "building.jpg")

# Of the capacity, as interactive load, and how long it is measured each time, in seconds.
INTERACTIVE_SHARE = 0.3
INTERACTIVE_SECONDS = 30


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--interactive", action="store_true")
    parser.add_argument("--chaos", action="store_true")
    parser.add_argument("--minio", type=Path, metavar="PROGRAM")
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    options = parser.parse_args()

    photos = [options.shared / "media" / name for name in PHOTOS]
    with tempfile.TemporaryDirectory(prefix="uploads-") as scratch:
        folder = Path(scratch)
        source = folder / "source"
        source.mkdir()
        for index in range(options.photos):
            (source / f"{index:05}.jpg").symlink_to(photos[index % len(photos)].resolve())

        minio = Minio(options.minio, folder) if options.minio else None
        gateway = Gateway(options, folder, MODEL, GRAPH, minio and minio.for_gateway())
        try:
            if minio:
                minio.start(gateway.url)
            gateway.measure()
            sys.exit(measure(options, gateway, minio, photos, source))
        finally:
            gateway.stop()
            if minio:
                minio.stop()


def measure(options, gateway, minio, photos, source):
    gateway.apply(f"""functions:
  oscar:
    - local:
        name: {SERVICE}
        image: model:{MODEL}
        model: {{ score: 0.3 }}
        input: [{{ storage_provider: minio, path: {SERVICE}/in }}]
        output: [{{ storage_provider: minio, path: {SERVICE}/out }}]
""")
    expected = [gateway.run(SERVICE, photo) for photo in photos]
    is_disturbed = options.chaos or minio
    capacity = saturation(gateway, photos, 4) if options.interactive or not is_disturbed else None
    if capacity:
        print(f"/run, eight callers: {capacity:.1f} photos/s", flush=True)
    alone = interactive(gateway, photos[0], capacity) if options.interactive else None

    done = threading.Event()
    disturbed = {}
    disturb = threading.Thread(target=harass, args=(options, gateway, minio, done, disturbed))
    began = time.monotonic()
    disturb.start()
    upload(gateway, source, is_disturbed)
    uploaded = time.monotonic() - began
    if options.interactive:
        waiting = gateway.counts(SERVICE).get("pending", 0)
        compare(alone, interactive(gateway, photos[0], capacity))
        print(f"objects that waited: {waiting} before, {gateway.counts(SERVICE).get('pending', 0)} after it")
    counts = wait_for_jobs(gateway, options.photos)
    seconds = time.monotonic() - began
    done.set()
    disturb.join()

    wrong = check(options, gateway, expected)
    rate = options.photos / seconds
    print(f"{options.photos} photos: uploaded in {uploaded:.1f} s, all done after {seconds:.1f} s, {rate:.1f} photos/s")
    if capacity and not options.interactive:
        print(f"beside /run at saturation: {rate / capacity:.3f}")
    if is_disturbed:
        print(", ".join(f"{what}: {count} times" for what, count in sorted(disturbed.items())))
    if minio:
        print(f"events: {minio.relay.passed} passed on, {minio.relay.lost} lost")
    print(f"jobs: {counts}")
    for line in wrong[:20]:
        print(f"wrong: {line}")
    print("all results are there, as /run gives them, of one job each" if not wrong else f"{len(wrong)} wrong")
    return 1 if wrong else 0


def saturation(gateway, photos, seconds):
    """Returns how many photos a second `/run` answers to eight callers, the mean over the photos."""
    rates = []
    for photo in photos:
        report = gateway.load(
            "--body", photo, "--concurrency", "8", "--duration", str(seconds), "--warmup", "1",
            "--timeout-ms", "20000",
        )
        rates.append(report["goodput_per_second"])
    # As many of each photo are uploaded: times add up, rates do not.
    return len(rates) / sum(1 / rate for rate in rates)


def interactive(gateway, photo, capacity):
    """Returns what independent callers notice, and how long a batch ran meanwhile, in milliseconds."""
    runs = [gateway.metric(f"infer_seconds_{what}") for what in ("sum", "count")]
    report = gateway.load(
        "--body", photo, "--rate", str(INTERACTIVE_SHARE * capacity), "--timeout-ms", "20000",
        "--duration", str(INTERACTIVE_SECONDS),
    )
    seconds, count = (gateway.metric(f"infer_seconds_{what}") - run for what, run in zip(("sum", "count"), runs))
    return report["served_ms"], seconds / count * 1e3


def compare(alone, beside):
    (alone, _), (beside, batch) = alone, beside
    for name in ("p50", "p99"):
        print(f"/run, {name}: {alone[name]:.1f} ms alone, {beside[name]:.1f} ms while objects wait, "
              f"{beside[name] - alone[name]:+.1f} ms")
    print(f"a batch ran for {batch:.1f} ms meanwhile")


def harass(options, gateway, minio, done, disturbed):
    """Kills workers twenty times and the gateway three times, or MinIO twice, as long as there is work."""

    def count(what):
        disturbed[what] = disturbed.get(what, 0) + 1

    if minio:
        # Amid the uploads, and amid the results.
        for seconds in (1.0, 10.0):
            if done.wait(seconds):
                return
            minio.restart()
            count("MinIO was killed and started again")
        return
    for step in range(1, 24 if options.chaos else 0):
        if done.wait(1.0):
            return
        if step % 7 == 0:
            gateway.kill()
            gateway.start()
            count("the gateway was killed")
            continue
        for pid in gateway.workers()[:1]:
            try:
                os.kill(pid, signal.SIGKILL)
                count("a worker was killed")
            except ProcessLookupError:
                pass


def upload(gateway, source, is_disturbed):
    """Uploads the folder; what is there already is not sent again, so one that broke off goes on."""
    while True:
        put = subprocess.run(
            [gateway.hearth, "put", source, f"{SERVICE}/in/", "--skip-existing", "--endpoint", gateway.url],
            capture_output=True, text=True,
        )
        if put.returncode == 0:
            return
        if not is_disturbed:
            raise SystemExit(put.stderr)
        time.sleep(0.5)


def wait_for_jobs(gateway, expected):
    """Waits until as many jobs as expected have ended, as long as some are begun or end."""
    last, since = None, time.monotonic()
    while True:
        try:
            counts = gateway.counts(SERVICE)
        except OSError:
            counts = None
        if counts != last:
            last, since = counts, time.monotonic()
        is_over = counts and not counts.get("pending") and not counts.get("running")
        if is_over and (sum(counts.values()) >= expected or time.monotonic() - since > 60):
            return counts
        time.sleep(0.2)


def check(options, gateway, expected):
    """Returns what is wrong: results that are missing, or not as expected, and jobs too many."""
    got = gateway.folder / "results"
    gateway.command("get", f"{SERVICE}/out/", got)
    found = {path.name: path for path in got.rglob("*.json")}
    wrong = []
    for index in range(options.photos):
        path = found.get(f"{index:05}.jpg.json")
        if path is None:
            wrong.append(f"{index:05}.jpg: no result")
        elif not alike(json.loads(path.read_text())["predictions"], expected[index % len(expected)]):
            wrong.append(f"{index:05}.jpg: another result than /run's")
    jobs = sum(gateway.counts(SERVICE).values())
    for what, count in (("jobs", jobs), ("results", len(found))):
        if count != options.photos:
            wrong.append(f"{count} {what}, expected one for each photo")
    return wrong


def alike(got, expected):
    """Whether both say the same; a batch of another size may move a score in its last digits."""
    return len(got) == len(expected) and all(
        one["label"] == other["label"] and abs(one["score"] - other["score"]) < 1e-3
        for one, other in zip(got, expected)
    )


if __name__ == "__main__":
    main()
