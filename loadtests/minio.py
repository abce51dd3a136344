"""A MinIO that announces objects to a gateway, through a relay that loses every tenth event."""

import http.server
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request

from gateway import free_port

KEYS = ("loadtests", "loadtests-secret")
TOKEN = "events-of-the-load-tests"
LOST_OF = 10


class Minio:
    def __init__(self, program, folder):
        self.program = program
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = open(folder / "minio.log", "ab")

    def for_gateway(self):
        """Returns what a gateway is told of it."""
        return {
            "MINIO_ENDPOINT": self.url, "MINIO_ACCESS_KEY": KEYS[0], "MINIO_SECRET_KEY": KEYS[1],
            "HEARTH_EVENTS_TOKEN": TOKEN,
        }

    def start(self, gateway_url):
        self.relay = Relay(f"{gateway_url}/events/minio")
        self.run()

    def run(self):
        self.process = subprocess.Popen(
            [self.program, "server", "--quiet", "--address", self.url.split("//")[1], self.folder / "minio"],
            env={
                **os.environ,
                "MINIO_BROWSER": "off", "MINIO_UPDATE": "off",
                "MINIO_ROOT_USER": KEYS[0], "MINIO_ROOT_PASSWORD": KEYS[1],
                "MINIO_NOTIFY_WEBHOOK_ENABLE_HEARTH": "on",
                "MINIO_NOTIFY_WEBHOOK_ENDPOINT_HEARTH": self.relay.url,
                "MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_HEARTH": TOKEN,
                "MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_HEARTH": str(self.folder / "queue"),
                "MINIO_NOTIFY_WEBHOOK_QUEUE_LIMIT_HEARTH": "100000",
            },
            stdout=self.log, stderr=self.log,
        )
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/minio/health/ready", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)

    def restart(self):
        self.process.kill()
        self.process.wait()
        self.run()

    def stop(self):
        self.process.kill()
        self.process.wait()


class Relay:
    """Passes events on to the gateway, and answers for every tenth without doing so."""

    def __init__(self, to):
        self.passed = self.lost = 0
        lock = threading.Lock()
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                is_event = body.strip() not in (b"", b"{}")
                with lock:
                    is_lost = is_event and (relay.passed + relay.lost) % LOST_OF == LOST_OF - 1
                    relay.lost += is_lost
                    relay.passed += is_event and not is_lost
                self.answer(200 if is_lost else self.pass_on(body))

            def pass_on(self, body):
                headers = {"content-type": "application/json", "authorization": self.headers.get("authorization", "")}
                try:
                    with urllib.request.urlopen(urllib.request.Request(to, body, headers), timeout=60) as answer:
                        return answer.status
                except urllib.error.HTTPError as error:
                    return error.code
                except OSError:
                    return 503

            def do_HEAD(self):
                self.answer(200)

            do_GET = do_HEAD

            def answer(self, status):
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
