"""Tests the demo against a stand-in for `hearth`, a script that answers what a test tells it to."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

DEMO = Path(__file__).with_name("demo.py")
# `{scenario}` is what the test tells it.
STAND_IN = """#!{python}
import http.server, json, signal, sys
scenario = json.loads({scenario!r})
if "dies" in scenario:
    sys.exit(scenario["dies"])

class Answer(http.server.BaseHTTPRequestHandler):
    not_ready = 2

    def do_GET(self):
        Answer.not_ready -= 1
        self.answer(503 if Answer.not_ready >= 0 else 200, "text/plain", b"")

    def do_POST(self):
        picture = self.rfile.read(int(self.headers["Content-Length"])).decode()
        accept = self.headers["Accept"]
        if "refuses" in scenario:
            self.answer(404, "text/plain", scenario["refuses"].encode())
        elif accept == "application/json":
            answer = {{"predictions": scenario[picture], "image": {{"width": 100, "height": 100}}}}
            self.answer(200, accept, json.dumps(answer).encode())
        else:
            magic = {{"image/png": b"\\x89PNG\\r\\n\\x1a\\n", "image/jpeg": b"\\xff\\xd8\\xff"}}
            self.answer(200, accept, magic[accept])

    def answer(self, status, media_type, body):
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(scenario.get("ends_with", 0)))
print("INFO listening on http://127.0.0.1:%d" % server.server_port, file=sys.stderr, flush=True)
server.serve_forever()
"""


def face(label, left):
    return {"label": label, "score": 0.9, "label_score": 0.99, "box": [left, 0, left + 20, 30]}


TRUTH = {
    "astronaut.png": [{"centre": [10, 15], "masked": False}],
    "group.jpg": [{"centre": [10, 15], "masked": False}, {"centre": [50, 15], "masked": True}],
}
RIGHT = {"astronaut.png": [face("unmasked", 0)], "group.jpg": [face("masked", 40), face("unmasked", 0)]}


class Demo(unittest.TestCase):
    def run_demo(self, **scenario):
        """Runs the demo on pictures that hold their own names, and returns its status and output."""
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (folder / "pictures").mkdir()
            for name in TRUTH:
                (folder / "pictures" / name).write_text(name)
            (folder / "pictures" / "truth.json").write_text(json.dumps(TRUTH))
            hearth = folder / "hearth"
            hearth.write_text(
                STAND_IN.format(python=sys.executable, scenario=json.dumps({**RIGHT, **scenario}))
            )
            hearth.chmod(0o755)
            command = [sys.executable, str(DEMO), "--hearth", str(hearth), "--folder", str(folder)]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", timeout=60
            )
            return done.returncode, done.stdout

    def check_failure(self, message, **scenario):
        status, output = self.run_demo(**scenario)
        self.assertEqual(status, 1, output)
        self.assertIn(message, output)

    def test_right_answers_succeed_and_say_who_is_masked(self):
        status, output = self.run_demo()
        self.assertEqual(status, 0, output)
        self.assertIn("group.jpg, 100 x 100: faces: 2, masked: 1", output)
        self.assertIn("curl --data-binary", output)

    def test_a_mask_that_is_not_seen_fails(self):
        answer = [face("unmasked", 40), face("unmasked", 0)]
        self.check_failure("the face at 50, 15 is masked, the answer says unmasked", **{"group.jpg": answer})

    def test_a_missing_face_fails(self):
        self.check_failure("the unmasked face at 10, 15 is in 0 boxes", **{"group.jpg": [face("masked", 40)]})

    def test_a_face_where_there_is_none_fails(self):
        answer = [*RIGHT["group.jpg"], face("masked", 70)]
        self.check_failure("there is no face at 70, 0, 90, 30", **{"group.jpg": answer})

    def test_a_refusal_is_shown(self):
        self.check_failure(
            "hearth answered 404: there is no model `face-mask`", refuses="there is no model `face-mask`"
        )

    def test_a_server_that_dies_has_its_last_words_shown(self):
        self.check_failure("| no such store", dies="no such store")

    def test_a_server_that_does_not_stop_cleanly_fails(self):
        self.check_failure("hearth ended with 3 after SIGTERM", ends_with=3)


if __name__ == "__main__":
    unittest.main()
