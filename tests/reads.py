#!/usr/bin/env python3
"""Positioned reads beside a memory map of the same files, with a cold cache: how fast, and at what cost of processor time.

Outside of the test run, as root (it drops the page cache): target/tmp/python/bin/python tests/reads.py CHECKPOINT
Both go through the shards from front to back in pieces of 4 MiB, copy them, and drop what they have read from the cache.
"""

import mmap
import os
import pathlib
import resource
import statistics
import sys
import time

PIECE = 4 << 20


def pread(path):
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    buffer = bytearray(PIECE)
    at = 0
    while count := os.preadv(file, [buffer], at):
        os.posix_fadvise(file, at, count, os.POSIX_FADV_DONTNEED)
        at += count
    os.close(file)
    return at


def mapped(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        data.madvise(mmap.MADV_SEQUENTIAL)
        buffer = memoryview(bytearray(PIECE))
        for at in range(0, len(data), PIECE):
            end = min(at + PIECE, len(data))
            with memoryview(data) as view:
                buffer[: end - at] = view[at:end]
            data.madvise(mmap.MADV_DONTNEED, at, end - at)
            os.posix_fadvise(file.fileno(), at, end - at, os.POSIX_FADV_DONTNEED)
        return len(data)


shards = sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors"))
found = {pread: [], mapped: []}
for _ in range(3):
    for way, times in found.items():
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        size = sum(way(shard) for shard in shards)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times.append((size / seconds / 1e9, used / (size / 1e9)))
print("| | GB/s, median of three | processor seconds a GB |\n|---|---|---|")
for way, label in ((pread, "positioned reads"), (mapped, "memory map")):
    speed, used = map(statistics.median, zip(*found[way]))
    print(f"| {label} | {speed:.2f} | {used:.2f} |")
