"""How fast a checkpoint comes from a hub: quantize from a server on 127.0.0.1 whose line has a given speed, beside the
same from disk.

hub_speed.py QUANTPRESS CHECKPOINT [--line MB/S ...] [-r RECIPE] [--latency MS]

Each line is simulated for all connections together: bytes wait until the line would have carried them, and each answer
until the latency is over. Prints seconds, the rate of the checkpoint's bytes, and peak memory. The best line (0) is as
fast as the loopback.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a1" * 20
PIECE = 256 << 10


class Line:
    """A line of so many bytes a second, shared by all connections."""

    def __init__(self, rate):
        self.rate, self.free, self.lock = rate, time.monotonic(), threading.Lock()

    def carry(self, count):
        if not self.rate:
            return
        with self.lock:
            self.free = max(self.free, time.monotonic()) + count / self.rate
            until = self.free
        time.sleep(max(0, until - time.monotonic()))


def server(folder, line, latency):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        log_message = lambda *_: None

        def answer(self, status, body, headers=()):
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            time.sleep(latency)
            path = self.path.split("?")[0]
            if path.startswith("/api/models/org/name/revision/"):
                return self.answer(200, json.dumps({"sha": COMMIT}).encode())
            if path.startswith("/api/models/org/name/tree/"):
                files = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name}
                    for f in folder.iterdir()
                    if f.is_file()
                ]
                return self.answer(200, json.dumps(files).encode())
            file = folder / path.rsplit("/", 1)[1]
            if "/resolve/" in path:
                address = f"http://127.0.0.1:{self.server.server_port}/bytes/{file.name}?X-Signature=1"
                return self.answer(302, b"", [("Location", address)])
            size = file.stat().st_size
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            with open(file, "rb") as source:
                while first <= last:
                    count = min(PIECE, last + 1 - first)
                    line.carry(count)
                    sent = os.sendfile(self.connection.fileno(), source.fileno(), first, count)
                    first += sent

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, daemon=True).start()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quantpress")
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("--line", type=float, nargs="*", default=[50, 0])
    parser.add_argument("--latency", type=float, default=50)
    parser.add_argument("-r", default="q8_0")
    options = parser.parse_args()
    total = sum(f.stat().st_size for f in options.checkpoint.glob("*.safetensors"))
    digests = set()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)

        def run(label, address, environment):
            output = scratch / "out.gguf"
            command = ["/usr/bin/time", "-f", "%e %M", options.quantpress, "quantize", address, "-o", output, "-r", options.r]
            done = subprocess.run([*command, "--force", "-q"], env={**os.environ, **environment}, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            seconds, memory = map(float, done.stderr.split()[-2:])
            digests.add(hashlib.file_digest(open(output, "rb"), "sha256").hexdigest())
            print(f"{label:12} {seconds:7.1f} s {total / seconds / 1e6:7.1f} MB/s {memory / 1000:6.0f} MB of memory", flush=True)

        run("disk", options.checkpoint, {})
        for rate in options.line:
            hub = server(options.checkpoint, Line(rate * 1e6), options.latency / 1000)
            place = {
                "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
                "HF_HOME": str(scratch / "home"),
                "NO_PROXY": "127.0.0.1",
            }
            run(f"{rate:g} MB/s" if rate else "loopback", "hf://org/name", place)
            hub.shutdown()
        run("disk", options.checkpoint, {})
    assert len(digests) == 1, "the bytes differ"


main()
