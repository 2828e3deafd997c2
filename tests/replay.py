#!/usr/bin/env python3
"""How long the work of a --trace would take on other numbers of cores, and what would bound it.

    target/release/quantpress quantize CHECKPOINT -o OUT.gguf --feedback --text TEXT --trace TRACE.json ...
    python3 tests/replay.py TRACE.json [--cores 1 2 16 64]

A trace (work_trace/src/lib.rs) has strands, which are rows of segments; after a segment may come a fork, whose children
must have ended before the next segment of its strand begins. Here every segment takes the processor time that it took, and
cores take up segments as soon as these may begin, those of the earliest strand first (list scheduling). Waiting for
the disk is not in it, nor that cores share caches and memory. Only the standard library is needed.
"""

import argparse
import collections
import heapq
import json


class Work:
    """The tree of a trace: strands by number, each a list of (name, microseconds) by place; children by fork."""

    def __init__(self, events):
        self.strands = collections.defaultdict(dict)
        self.within = {}
        for event in events:
            told = event["args"]
            self.strands[told["strand"]][told["place"]] = (event["name"], told["processor"])
            self.within[told["strand"]] = tuple(told["within"]) if told["within"] else None
        self.strands = {strand: [parts[p] for p in sorted(parts)] for strand, parts in self.strands.items()}
        self.children = collections.defaultdict(list)
        for strand, within in self.within.items():
            self.children[within].append(strand)
        for children in self.children.values():
            children.sort()

    def total(self):
        return sum(time for parts in self.strands.values() for _, time in parts)

    def span(self):
        """The longest chain of segments that wait for one another, and its time by name."""
        longest = {}
        # Children have higher numbers than the strand that they belong to.
        for strand in sorted(self.strands, reverse=True):
            time, names = 0.0, collections.Counter()
            for place, (name, own) in enumerate(self.strands[strand]):
                time += own
                names[name] += own
                below = [longest[child] for child in self.children.get((strand, place), ())]
                if below:
                    most = max(below, key=lambda chain: chain[0])
                    time += most[0]
                    names.update(most[1])
            for place in range(len(self.strands[strand])):
                for child in self.children.get((strand, place), ()):
                    longest.pop(child, None)
            longest[strand] = (time, names)
        roots = [longest[strand] for strand in self.children[None]]
        names = collections.Counter()
        for _, of_root in roots:
            names.update(of_root)
        return sum(time for time, _ in roots), names

    def replay(self, cores):
        """The time on so many cores, and for how long fewer than all were busy, by the names of what they did then."""
        ready, running, now, number = [], [], 0.0, 0
        waiting = {}
        alone = collections.Counter()

        def begin(strand, place):
            heapq.heappush(ready, (strand, place))

        def after(strand, place):
            children = self.children.get((strand, place), ())
            if children:
                waiting[(strand, place)] = len(children)
                for child in children:
                    begin(child, 0)
            else:
                following(strand, place)

        def following(strand, place):
            if place + 1 < len(self.strands[strand]):
                begin(strand, place + 1)
                return
            fork = self.within[strand]
            if fork is not None:
                waiting[fork] -= 1
                if not waiting[fork]:
                    del waiting[fork]
                    following(*fork)

        for root in self.children[None]:
            begin(root, 0)
            while ready or running:
                while ready and len(running) < cores:
                    strand, place = heapq.heappop(ready)
                    number += 1
                    heapq.heappush(running, (now + self.strands[strand][place][1], number, strand, place))
                end, _, strand, place = heapq.heappop(running)
                if len(running) + 1 < cores:
                    share = (end - now) * (cores - len(running) - 1) / cores
                    alone[self.strands[strand][place][0]] += share
                now = end
                after(strand, place)
        return now, alone


def main(options):
    with open(options.trace) as file:
        work = Work(json.load(file))
    total = work.total()
    span, names = work.span()
    print(f"{len(work.strands)} strands, {total / 1e6:.2f} core seconds; the longest chain has {span / 1e6:.2f} s")
    print("of the chain: " + ", ".join(f"{name} {100 * time / span:.0f} %" for name, time in names.most_common(8)))
    print("| cores | seconds | speed-up | of all cores busy | idle time by what was waited for |\n|---|---|---|---|---|")
    for cores in options.cores:
        time, alone = work.replay(cores)
        idle = ", ".join(f"{name} {100 * share / time:.1f} %" for name, share in alone.most_common(5))
        busy = f"{total / time:.1f} | {100 * total / time / cores:.0f} %"
        print(f"| {cores} | {time / 1e6:.2f} | {busy} | {idle} |")


parser = argparse.ArgumentParser()
parser.add_argument("trace")
parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
if __name__ == "__main__":
    main(parser.parse_args())
