"""A CUDA device of host memory, for the stand-ins of PyCUDA and cuda-bindings.

Everything that is queued is written to `calls`. Normally it happens at once. With `deferred` it happens as
late as it may, streams in a random order that only events hold together: what is read too late or written
too early shows in the results. Memory that was given back, and memory that was never written, is poison.
"""

from __future__ import annotations

import ctypes
import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np

NAME, CAPABILITY = "Fake GPU", (8, 7)
FREE_BYTES = 1 << 30
FIRST_STREAM = 0x5678
POISON = 0xA5


@dataclass
class Event:
    recorded: int = 0  # how often it was queued
    reached: int = 0
    external: bool = False  # part of a graph that can be read


@dataclass
class Stream:
    handle: int
    waiting: deque = field(default_factory=deque)  # (event, number) to wait for, or what to do


@dataclass
class Device:
    deferred: bool = False
    order: random.Random = field(default_factory=lambda: random.Random(0))
    calls: list = field(default_factory=list)
    kernels: dict = field(default_factory=dict)  # name -> function(grid, arguments)
    live: dict = field(default_factory=lambda: dict.fromkeys(("device", "host", "contexts"), 0))
    memory: dict = field(default_factory=dict)  # address -> array; on the device
    host: dict = field(default_factory=dict)
    gone: list = field(default_factory=list)
    streams: dict = field(default_factory=dict)
    broken: str = ""  # the error that everything reports from now on
    abandoned: int = 0  # things that nobody waited for before their stream went
    captured: list | None = None  # what the graph under way holds

    # Memory

    def allocate(self, size):
        """Address, or None if there is too little."""
        return self._new(self.memory, "device", size)

    def allocate_host(self, size):
        return self._new(self.host, "host", size)

    def _new(self, where, kind, size):
        assert self.captured is None, "memory is allocated while a graph is captured"
        self.calls.append((f"allocate {kind}", size))
        if size > FREE_BYTES:
            return None
        room = np.full(size + 256, POISON, np.uint8)
        start = -room.ctypes.data % 256
        array = room[start : start + size]
        self.live[kind] += 1
        where[array.ctypes.data] = array
        return array.ctypes.data

    def free(self, address):
        self._gone(self.memory, "device", address)

    def free_host(self, address):
        self._gone(self.host, "host", address)

    def _gone(self, where, kind, address):
        array = where.pop(address)
        array[:] = POISON
        self.gone.append(array)  # whoever still reads it reads poison
        self.live[kind] -= 1

    def at(self, address, size=None):
        """[size] bytes on the device, in one piece of memory; by default up to its end."""
        for start, array in self.memory.items():
            stop = start + len(array) if size is None else address + size
            if start <= address < stop <= start + len(array):
                return array[address - start : stop - start]
        raise AssertionError(f"{size} bytes at {address:#x} are not on the device")

    # Streams

    def new_stream(self):
        handle = FIRST_STREAM
        while handle in self.streams:
            handle += 1
        self.streams[handle] = Stream(handle)
        return handle

    def drop_stream(self, handle):
        self.abandoned += len(self.streams.pop(handle).waiting)

    def queue(self, stream, call, run):
        """Write the call down; do it now, later, or whenever the graph under way is launched."""
        self.calls.append((*call, *(() if stream == FIRST_STREAM else (f"stream {stream:#x}",))))
        if self.captured is not None:
            assert stream == FIRST_STREAM, "another stream than the captured one"
            self.captured.append(run)
        else:
            self.put(stream, run)

    def put(self, stream, run):
        self.streams[stream].waiting.append(run)
        if not self.deferred:
            self.finish(stream)

    def record(self, event, stream, external=False):
        assert external == (self.captured is not None), "a mark in a graph has to be external"
        if external:
            event.external = True

            def reach():
                event.recorded += 1
                event.reached = event.recorded
        else:
            event.recorded += 1
            number = event.recorded

            def reach():
                event.reached = number

        self.queue(stream, ("record", id(event)), reach)

    def wait(self, event, stream):
        assert self.captured is None, "a graph waits for something outside"
        self.calls.append(("wait", id(event), f"stream {stream:#x}"))
        self.put(stream, (event, event.recorded))

    def wait_here(self, event):
        assert self.captured is None, "the host waits while a graph is captured"
        self.calls.append(("wait here", id(event)))
        while event.reached < event.recorded:
            self._step()

    def synchronize(self, stream):
        assert self.captured is None, "the host waits while a graph is captured"
        self.calls.append(("synchronize", f"stream {stream:#x}"))
        self.finish(stream)

    def finish(self, stream):
        while self.streams[stream].waiting:
            self._step()

    def _step(self):
        """Do one thing of any stream whose next thing can be done."""
        ready = [s for s in self.streams.values() if s.waiting and self._can_go_on(s.waiting[0])]
        assert ready, "everything waits for something else"
        run = self.order.choice(ready).waiting.popleft()
        if not isinstance(run, tuple):
            run()

    @staticmethod
    def _can_go_on(what):
        return not isinstance(what, tuple) or what[0].reached >= what[1]

    # Work

    def copy_to_device(self, address, source, size, stream):
        def run():
            self.at(address, size)[:] = host_bytes(source, size)

        self.queue(stream, ("to device", address, size), run)

    def copy_from_device(self, target, address, size, stream):
        def run():
            host_bytes(target, size)[:] = self.at(address, size)

        self.queue(stream, ("from device", address, size), run)

    def fill(self, address, value, size, stream):
        def run():
            self.at(address, size)[:] = value

        self.queue(stream, ("memset", address, value, size), run)

    def launch(self, name, grid, block, shared, arguments, stream):
        def run():
            for kind, value in arguments:
                if kind == "pointer" and name in self.kernels:
                    self.at(value, 1)
            self.kernels.get(name, lambda *_: None)(grid, arguments)

        self.queue(stream, ("launch", name, grid, block, shared, arguments), run)

    # Graphs

    def begin_capture(self):
        self.calls.append(("begin capture",))
        self.captured = []

    def end_capture(self):
        self.calls.append(("end capture",))
        captured, self.captured = self.captured, None
        return captured

    def launch_graph(self, captured, stream):
        self.queue(stream, ("graph",), lambda: [run() for run in captured])


def host_bytes(address, size):
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


def named(calls, *kinds):
    """Those of the calls that are of these kinds."""
    return [call for call in calls if call[0] in kinds]
