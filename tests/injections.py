#!/usr/bin/env python3
"""Kills the program, or lets the system refuse, at one system call after the other, and lets it go on.

    tests/injections.py [--every N] [WORK...]

WORK: quantize, split, part, calibrate, feedback (all by default). A run is traced once for its system calls; then, for
each kind of call that writes, locks, renames, removes or makes durable, and every N-th time it happens, one run is killed
there and one gets an error. After each the same command must end in the same bytes, or refuse with a reason, and go on
after --restart. Needs strace (Debian has it), and the program in target/debug or in $QUANTPRESS.
"""
import hashlib, os, re, subprocess, sys, tempfile, shutil
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = os.environ.get("QUANTPRESS", str(ROOT / "target/debug/quantpress"))
TINY = str(ROOT / "fixtures/tiny-r1")
TEXT = ["--text", TINY + "/calibration.txt", "--context", "256", "--chunks", "2"]
WORKS = {
    "quantize": (["quantize", TINY, "-o", "o.gguf"], ["o.gguf"]),
    "split": (["quantize", TINY, "-o", "o.gguf", "--split", "3"], [f"o-0000{n}-of-00003.gguf" for n in (1, 2, 3)]),
    "part": (["quantize", TINY, "-o", "o.gguf", "--part", "2/3"], ["o-00002-of-00003.gguf"]),
    "calibrate": (["calibrate", TINY, "-o", "o.gguf", *TEXT], ["o.gguf"]),
    "feedback": (["quantize", TINY, "-o", "o.gguf", "-r", "q2_k", "--feedback", *TEXT], ["o.gguf"]),
}
# Calls and what the system may say to them.
CALLS = {
    "openat": ["EACCES", "EMFILE"], "flock": ["ENOLCK", "EIO"], "fsync": ["EIO", "EINVAL"], "fdatasync": ["EIO", "EINVAL"],
    "rename": ["EACCES"], "renameat2": ["EACCES", "EINVAL"], "unlink": ["EACCES"], "rmdir": ["EBUSY"], "mkdir": ["ENOSPC"],
    "fallocate": ["ENOSPC", "EOPNOTSUPP"], "ftruncate": ["EIO", "ENOSPC"], "pwrite64": ["ENOSPC", "EIO"],
    "pread64": ["EIO"], "write": ["ENOSPC", "EIO"], "statx": ["EIO"], "fadvise64": ["EINVAL"],
}


def command(work):
    extra = ["-q", "-t", "1"] + ([] if work == "calibrate" else ["--sync-seconds", "0"])
    return [PROGRAM, *WORKS[work][0], *extra]


def run(arguments, folder, trace=()):
    done = subprocess.run([*trace, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=600)
    return done.returncode, done.stderr.decode(errors="replace").strip()[-300:]


def digests(work, folder):
    files = [folder / name for name in WORKS[work][1]]
    return [hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None for file in files]


def traced(work, folder):
    """How often each call happens once the work has begun."""
    log = folder / "trace"
    code, said = run(command(work), folder, ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=" + ",".join(CALLS)])
    assert code == 0, said
    return Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text(errors="replace"), re.M))


def tried(work, expected, inject):
    """What became of a run with an injection, and of the ones after it."""
    folder = Path(tempfile.mkdtemp(prefix="injections."))
    try:
        first, said = run(command(work), folder, ["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject])
        if "panicked" in said:
            return f"PANIC: {said}"
        if first == 0:
            return "went on" if digests(work, folder) == expected else "OTHER BYTES, exit 0"
        second, said = run(command(work), folder)
        how = "resumed"
        if second != 0:
            third, after = run([*command(work), "--restart"], folder)
            if third != 0:
                return f"STUCK: {said} / {after}"
            how = f"refused ({said.splitlines()[-1] if said else ''}), anew"
        left = sorted(p.name for p in folder.iterdir() if p.name not in WORKS[work][1] and not p.name.endswith(".json"))
        if left:
            how += f", LEFT {left}"
        return how if digests(work, folder) == expected else f"OTHER BYTES after {how}"
    finally:
        shutil.rmtree(folder)


def main():
    every = int(sys.argv[2]) if sys.argv[1:2] == ["--every"] else 7
    works = sys.argv[3 if sys.argv[1:2] == ["--every"] else 1:] or list(WORKS)
    bad = 0
    for work in works:
        folder = Path(tempfile.mkdtemp(prefix="injections."))
        calls = traced(work, folder)
        expected = digests(work, folder)
        shutil.rmtree(folder)
        results = Counter()
        for call, errors in CALLS.items():
            for at in range(1, calls[call] + 1, every if calls[call] > 3 * every else max(1, calls[call] // 8)):
                for action in ["signal=KILL", *(f"error={error}" for error in errors)]:
                    what = tried(work, expected, f"inject={call}:{action}:when={at}")
                    results[what.split(":")[0].split(" (")[0]] += 1
                    if what.isupper() or any(word in what for word in ("OTHER", "STUCK", "PANIC", "LEFT")):
                        bad += 1
                        print(f"{work}: {call} {at} {action}: {what}", flush=True)
                    elif what.startswith("refused"):
                        print(f"{work}: {call} {at} {action}: {what}", flush=True)
        print(f"{work}: {sum(results.values())} injections: {dict(results)}", flush=True)
    sys.exit(bad > 0)


main()
