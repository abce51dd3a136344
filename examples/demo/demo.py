#!/usr/bin/env python3
"""Asks Hearth who wears a mask, checks the answers, and shows how to ask it yourself.

    demo.py --hearth target/release/hearth --folder build/demo

What you should see: two tables of faces, one face in the portrait and six in the group picture, three of
them masked; then where the drawn pictures are. It exits with 1, and says why, if any of that is wrong.
`make demo` runs it. Nothing but Python's standard library is imported.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

MODEL = "face-mask"
# Seconds. The first start checks the models, on a slow machine with everything else going on.
START_LIMIT, REQUEST_LIMIT, STOP_LIMIT = 120, 60, 30
POLL_INTERVAL = 0.05
LAST_LINES = 20
# How the pictures are asked for, and how files of that type begin.
DRAWN = {"astronaut.png": ("image/png", b"\x89PNG\r\n\x1a\n"), "group.jpg": ("image/jpeg", b"\xff\xd8\xff")}


class Failure(Exception):
    """Something is not as it should be; the message is for the user."""


# === the server ===


class Server:
    """A running `hearth serve`, its log, and its address once it has said it."""

    def __init__(self, process, log):
        self.process = process
        self.log = log
        # A proxy has no business between two programs of one machine.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.url = self.wait("say where it listens", self.find_address)
        self.wait("be ready", self.is_ready)

    def find_address(self):
        said = re.search(r"listening on (http://[^\s\"]+)[\s\"]", self.log.read_text(errors="replace"))
        return said and said.group(1)

    def is_ready(self):
        try:
            with self.opener.open(f"{self.url}/v2/health/ready", timeout=REQUEST_LIMIT) as answer:
                return answer.status == 200
        except OSError:  # Refused, or a status that says: not yet.
            return False

    def wait(self, purpose, condition):
        """Asks until the condition gives something true, and returns that."""
        limit = time.monotonic() + START_LIMIT
        while time.monotonic() < limit:
            result = condition()
            if result:
                return result
            if self.process.poll() is not None:
                raise Failure(
                    f"hearth ended with {self.process.returncode} before it could {purpose}{self.last_lines()}"
                )
            time.sleep(POLL_INTERVAL)
        raise Failure(f"hearth took more than {START_LIMIT} s to {purpose}{self.last_lines()}")

    def last_lines(self):
        lines = self.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return "".join(f"\n    | {line}" for line in lines)

    def run(self, picture, accept):
        """Sends a picture; returns the answer's body and headers."""
        request = urllib.request.Request(f"{self.url}/run/{MODEL}", picture.read_bytes(), {"Accept": accept})
        try:
            with self.opener.open(request, timeout=REQUEST_LIMIT) as answer:
                return answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace").strip()
            raise Failure(
                f"{picture.name}: hearth answered {error.code}: {said}{self.last_lines()}"
            ) from error
        except OSError as error:
            raise Failure(f"{picture.name}: no answer from hearth: {error}{self.last_lines()}") from error


@contextmanager
def serving(hearth, folder):
    """Runs `hearth serve` on a free port while the block runs, then has it stop, and checks that it does."""
    log = folder / "hearth.log"
    command = [str(hearth), "serve", "--listen", "127.0.0.1:0", "--grpc-listen", "", "--s3-listen", "off"]
    command += ["--store", str(folder / "store"), "--data", str(folder / "data")]
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise Failure(f"cannot start {hearth}: {error}") from error
    try:
        server = Server(process, log)
        yield server
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            raise Failure(
                f"hearth did not stop within {STOP_LIMIT} s of SIGTERM{server.last_lines()}"
            ) from None
        if status != 0:
            raise Failure(f"hearth ended with {status} after SIGTERM, expected 0{server.last_lines()}")
    finally:
        process.kill()
        process.wait()


# === the answers ===


def check_faces(name, predictions, truth):
    """Checks that the predictions are the faces that are there, each masked or not as it is.

    A face is found if its centre is inside a box; each face must have one box, and each box one face.
    """
    wrong = []
    boxes = list(predictions)
    for face in truth:
        x, y = face["centre"]
        found = [
            box
            for box in boxes
            if box["box"][0] <= x <= box["box"][2] and box["box"][1] <= y <= box["box"][3]
        ]
        boxes = [box for box in boxes if box not in found]
        expected = "masked" if face["masked"] else "unmasked"
        if len(found) != 1:
            wrong.append(f"the {expected} face at {x:.0f}, {y:.0f} is in {len(found)} boxes, expected 1")
        elif found[0]["label"] != expected:
            wrong.append(f"the face at {x:.0f}, {y:.0f} is {expected}, the answer says {found[0]['label']}")
    wrong += [f"there is no face at {format_box(box['box'])}" for box in boxes]
    if wrong:
        raise Failure("".join(f"\n    {name}: {line}" for line in wrong))


def format_box(box):
    return ", ".join(f"{edge:.0f}" for edge in box)


def print_table(name, answer, headers):
    """Prints who is masked, in reading order as far as faces stand in rows."""
    size, predictions = answer["image"], answer["predictions"]
    masked = sum(face["label"] == "masked" for face in predictions)
    print(f"\n{name}, {size['width']} x {size['height']}: faces: {len(predictions)}, masked: {masked}")
    print("        who       certain  face   box (left, top, right, bottom)")
    row_height = size["height"] / 4
    for face in sorted(predictions, key=lambda face: (face["box"][1] // row_height, face["box"][0])):
        print(
            f"        {face['label']:<9} {face['label_score']:>6.1%}  {face['score']:.2f}   {format_box(face['box'])}"
        )
    print(f"    time: {headers.get('Server-Timing', 'not told')}")


def demonstrate(server, folder):
    pictures, out = folder / "pictures", folder / "out"
    out.mkdir(exist_ok=True)
    truth = json.loads((pictures / "truth.json").read_text(encoding="utf-8"))
    drawn = []
    for name, faces in truth.items():
        body, headers = server.run(pictures / name, "application/json")
        answer = json.loads(body)
        print_table(name, answer, headers)
        check_faces(name, answer["predictions"], faces)

        media_type, magic = DRAWN[name]
        body, headers = server.run(pictures / name, media_type)
        if headers.get_content_type() != media_type or not body.startswith(magic):
            raise Failure(
                f"{name}: asked for {media_type}, got {headers.get_content_type()} beginning with {body[:8]!r}"
            )
        (out / name).write_bytes(body)
        drawn.append(out / name)

    print("\nEveryone is found, and masked or not as painted. The same, drawn:")
    for path in drawn:
        print(f"    {path}")


def print_invitation(folder):
    group = folder / "pictures" / "group.jpg"
    print(f"""
Ask it yourself, after `make serve`:
    curl --data-binary @{group} http://127.0.0.1:8080/run/{MODEL}
    curl --data-binary @{group} -H 'Accept: image/png' -o drawn.png http://127.0.0.1:8080/run/{MODEL}""")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hearth", type=Path, required=True, help="the program")
    parser.add_argument(
        "--folder", type=Path, required=True, help="has store/ and pictures/, gets data/ and out/"
    )
    arguments = parser.parse_args()
    try:
        with serving(arguments.hearth, arguments.folder) as server:
            demonstrate(server, arguments.folder)
    except Failure as failure:
        sys.exit(f"\nthe demo failed: {failure}")
    print_invitation(arguments.folder)


if __name__ == "__main__":
    main()
