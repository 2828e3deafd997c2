#!/usr/bin/env python3
"""Opens reports in headless Chromium: no error in its console, no request to the network, screenshots to look at.

Outside of the test run (apt-get install chromium):

    cargo run --release --example r1_shaped -- R1 --layers 61 --dense 3 --experts 256 --sparse
    target/release/quantpress plan R1 --json > R1.json
    target/release/quantpress report R1.json -o R1.html
    python3 tests/report_chromium.py R1.html OTHER.html... --screenshots FOLDER

The browser writes a log of its console and a log of its network stack. What it asks for by itself, on an empty page
(accounts, updates), is left out by host; names are never resolved, so nothing leaves the machine.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.parse

QUIET = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-default-apps --disable-extensions --hide-scrollbars
    --disable-client-side-phishing-detection --no-default-browser-check""".split()
QUIET.append("--host-resolver-rules=MAP * ~NOTFOUND")

# Name, window, dark.
VIEWS = [("wide", "1160,4200", False), ("dark", "1160,4200", True), ("narrow", "390,5000", False)]


def hosts(log):
    """Every host that the network stack was asked for."""
    asked = set()
    for event in json.loads(log)["events"]:
        parameters = event.get("params", {})
        addresses = [str(parameters[key]) for key in ("url", "host", "hostname") if key in parameters]
        for address in addresses:
            url = urllib.parse.urlsplit(address if "//" in address else f"//{address}")
            if url.scheme in ("", "http", "https", "ws", "wss", "ftp") and url.hostname:
                asked.add(url.hostname)
    return asked


def look(browser, page, folder, view, own=frozenset()):
    """The lines of the console, and the hosts that were asked for beside the browser's own."""
    name, window, dark = view
    with tempfile.TemporaryDirectory() as profile:
        net = pathlib.Path(profile) / "net.json"
        picture = folder / f"{page.stem}-{name}.png"
        command = [browser, *QUIET, f"--user-data-dir={profile}/user", f"--window-size={window}"]
        command += [f"--log-net-log={net}", "--enable-logging=stderr", "--v=0", f"--screenshot={picture}"]
        command += ["--blink-settings=preferredColorScheme=0"] if dark else []
        done = subprocess.run([*command, page.resolve().as_uri()], capture_output=True, text=True, timeout=120)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        if done.returncode or not picture.exists():
            raise SystemExit(f"{page}: the browser failed\n{done.stderr[-2000:]}")
        return picture, console, hosts(net.read_text()) - own


parser = argparse.ArgumentParser()
parser.add_argument("pages", nargs="+", type=pathlib.Path)
parser.add_argument("--browser", default="chromium")
parser.add_argument("--screenshots", type=pathlib.Path, default=pathlib.Path("."))
options = parser.parse_args()
options.screenshots.mkdir(parents=True, exist_ok=True)
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    empty, faulty = folder / "empty.html", folder / "faulty.html"
    empty.write_text("<!DOCTYPE html><title>empty</title>")
    own = look(options.browser, empty, folder, VIEWS[0])[2]
    # A page with both faults must be caught, or the answers below mean nothing.
    faulty.write_text("<img src='http://quantpress.invalid/x.png'><script>console.error('a fault')</script>")
    _, console, asked = look(options.browser, faulty, folder, VIEWS[0], own)
    if not console or asked != {"quantpress.invalid"}:
        raise SystemExit(f"the faulty page was not noticed: console {console}, hosts {asked}")
found = 0
for page in options.pages:
    for view in VIEWS:
        picture, console, asked = look(options.browser, page, options.screenshots, view, own)
        print(f"{picture}: {len(console)} lines in the console, {len(asked)} hosts asked for")
        for line in [*console, *sorted(asked)]:
            print(f"  {line}")
        found += len(console) + len(asked)
sys.exit(1 if found else 0)
