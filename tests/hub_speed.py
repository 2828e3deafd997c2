"""How fast a checkpoint comes from a hub: quantize from a server on 127.0.0.1 whose line has a given speed, beside the
same from disk.

hub_speed.py QUANTPRESS CHECKPOINT [--line MB/S ...] [-r RECIPE] [--latency MS] [--failing PERCENT] [--kills N]
    [--s3 PYTHON]

Each line is simulated for all connections together: bytes wait until the line would have carried them, and each answer
until the latency is over. Prints seconds, the rate of the checkpoint's bytes, and peak memory. The best line (0) is as
fast as the loopback. With --failing so many of a hundred requests fail besides, by 503 or in the midst of an answer; with
--kills the program is killed so often on its way, and the command given again. With --s3 the checkpoint is also read from
moto's server, by a Python that has moto. All files must have the same bytes.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import random
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


def server(folder, line, latency, failing=0):
    chance = random.Random(1)

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
            fails = chance.random() * 100 < failing
            if fails and chance.random() < 0.5:
                return self.answer(503, b"")
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
            if "/resolve/" in path and file.suffix == ".safetensors":
                address = f"http://127.0.0.1:{self.server.server_port}/bytes/{file.name}?X-Signature=1"
                return self.answer(302, b"", [("Location", address)])
            size = file.stat().st_size
            if "Range" not in self.headers:
                return self.answer(200, file.read_bytes())
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            if fails:
                last = (first + last) // 2
                self.close_connection = True
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


@contextlib.contextmanager
def bucket(python, folder):
    """moto's server, and what names it, with the folder's files below models/r1/."""
    process = subprocess.Popen(
        [python, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        address = next(line for line in process.stderr if "http://" in line).split("http://")[1].strip()
        threading.Thread(target=lambda: list(process.stderr), daemon=True).start()
        key = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        for name, file in [("models", None), *((f"models/r1/{file.name}", file) for file in folder.iterdir() if file.is_file())]:
            connection = http.client.HTTPConnection(address)
            connection.request("PUT", f"/{name}", open(file, "rb") if file else b"", {
                "Authorization": key,
                "Content-Length": str(file.stat().st_size if file else 0),
            })
            answer = connection.getresponse()
            assert answer.status == 200, (name, answer.status, answer.read())
        yield {
            "AWS_ENDPOINT_URL": f"http://{address}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }
    finally:
        process.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quantpress")
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("--line", type=float, nargs="*", default=[50, 0])
    parser.add_argument("--latency", type=float, default=50)
    parser.add_argument("-r", default="q8_0")
    parser.add_argument("--failing", type=float, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--s3", metavar="PYTHON")
    options = parser.parse_args()
    total = sum(f.stat().st_size for f in options.checkpoint.glob("*.safetensors"))
    digests = set()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)

        def run(label, address, environment, kills=0):
            output = scratch / "out.gguf"
            output.unlink(missing_ok=True)
            command = ["/usr/bin/time", "-f", "%e %M", options.quantpress, "quantize", address, "-o", output, "-r", options.r]
            environment = {**os.environ, **environment}
            chance = random.Random(len(digests))
            for number in range(kills):
                process = subprocess.Popen([*command[3:], "-q", "--force"], env=environment)
                try:
                    process.wait(chance.uniform(2, 10))
                    raise SystemExit("it ended before it was killed")
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                assert not output.exists(), "a file that is not finished"
            done = subprocess.run([*command, "--force", "-q"], env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            seconds, memory = map(float, done.stderr.split()[-2:])
            digests.add(hashlib.file_digest(open(output, "rb"), "sha256").hexdigest())
            rate = f"{total / seconds / 1e6:7.1f} MB/s" if not kills else f"after {kills} kills"
            print(f"{label:20} {seconds:7.1f} s {rate} {memory / 1000:6.0f} MB of memory", flush=True)

        def hub(label, rate, **faults):
            served = server(options.checkpoint, Line(rate * 1e6), options.latency / 1000, faults.get("failing", 0))
            place = {
                "HF_ENDPOINT": f"http://127.0.0.1:{served.server_port}",
                "HF_HOME": str(scratch / "home"),
                "NO_PROXY": "127.0.0.1",
            }
            run(label, "hf://org/name", place, faults.get("kills", 0))
            served.shutdown()

        run("disk", options.checkpoint, {})
        for rate in options.line:
            hub(f"{rate:g} MB/s" if rate else "loopback", rate)
        if options.failing:
            hub(f"{options.failing:g} % fail", 0, failing=options.failing)
        if options.kills:
            hub("killed", 0, kills=options.kills, failing=options.failing)
        if options.s3:
            with bucket(options.s3, options.checkpoint) as place:
                run("s3", "s3://models/r1/", place)
                if options.kills:
                    run("s3, killed", "s3://models/r1/", place, options.kills)
        run("disk", options.checkpoint, {})
    assert len(digests) == 1, "the bytes differ"


main()
