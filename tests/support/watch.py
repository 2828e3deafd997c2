"""Runs a command and measures it: wall time, memory, bytes read and written; in a memory cgroup where root may make one."""

import os
import pathlib
import resource
import subprocess
import threading
import time

GROUPS = pathlib.Path("/sys/fs/cgroup/memory")


class Group:
    """A memory cgroup (version 1) with a limit in bytes, or without one. Gone when it is closed."""

    def __init__(self, limit=None):
        self.path = GROUPS / f"quantpress-{os.getpid()}-{time.monotonic_ns()}"
        self.path.mkdir()
        if limit:
            (self.path / "memory.limit_in_bytes").write_text(str(limit))

    @staticmethod
    def possible():
        return os.access(GROUPS, os.W_OK) and (GROUPS / "memory.limit_in_bytes").exists()

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def number(self, name):
        return int((self.path / name).read_text())

    def stat(self):
        return {key: int(value) for key, value in map(str.split, (self.path / "memory.stat").read_text().splitlines())}

    def close(self):
        try:
            (self.path / "memory.force_empty").write_text("0")
        except OSError:
            pass
        self.path.rmdir()


def io_of(pid):
    fields = pathlib.Path(f"/proc/{pid}/io").read_text().split()
    return {name.rstrip(":"): int(value) for name, value in zip(fields[::2], fields[1::2])}


def processor_seconds():
    """Of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def watch(command, group=None, environment=None, folder=None):
    """Result, seconds, seconds of processors, and peaks over the run: anonymous memory, mapped file pages, bytes in `folder`; bytes of disk I/O."""
    seen = {"anonymous": 0, "mapped": 0, "disk": 0, "read": 0, "written": 0}
    start, processors = time.perf_counter(), processor_seconds()
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True, errors="replace",
        env={**os.environ, **(environment or {})},
        preexec_fn=group.enter if group else None,
    )
    done = threading.Event()

    def sample():
        while not done.wait(0.05):
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                io = io_of(process.pid)
            except OSError:
                continue
            lines = dict(line.split(":", 1) for line in status.splitlines())
            kib = lambda field: int(lines.get(field, "0 kB").split()[0]) << 10
            seen["anonymous"] = max(seen["anonymous"], kib("RssAnon"))
            seen["mapped"] = max(seen["mapped"], kib("RssFile"))
            seen["read"], seen["written"] = max(seen["read"], io["read_bytes"]), max(seen["written"], io["wchar"])
            if folder:
                sizes = [f.stat().st_blocks * 512 for f in pathlib.Path(folder).rglob("*") if f.is_file()]
                seen["disk"] = max(seen["disk"], sum(sizes))

    sampler = threading.Thread(target=sample)
    sampler.start()
    out, talk = process.communicate()
    seconds, processors = time.perf_counter() - start, processor_seconds() - processors
    done.set()
    sampler.join()
    found = {"code": process.returncode, "stdout": out, "stderr": talk}
    return {**found, "seconds": seconds, "processors": processors, **seen}
