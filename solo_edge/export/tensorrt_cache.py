"""What TensorRT builds leave for each other: timings of kernels, and plans.

    $XDG_CACHE_HOME/solo-edge/tensorrt/VERSION-GPU-CAPABILITY/
        timing.cache      also for trtexec --timingCacheFile
        plans/KEY.plan    SHA-256, then the plan
        *.lock

Processes exclude each other with `flock`: two that want the same plan build it once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from solo_edge.errors import ResourceError
from solo_edge.export.tensorrt_options import TensorRTOptions
from solo_edge.files import atomic_file, sha256_of

__all__ = ["PLANS_KEPT", "BuildCache", "TimingCacheFile", "locked"]

log = logging.getLogger(__name__)

PLANS_KEPT = 8
# What changes how a build is made, and not what it makes.
_NOT_IN_KEY = ("timing_cache", "cache_folder")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` alone; waits for other processes. The file stays, empty."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("waiting for another build that holds %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class TimingCacheFile:
    """A file with TensorRT's timings of single kernels on one GPU, shared between builds.

    Only its reading and its writing are locked, not the minutes in between: what another build
    added meanwhile is merged.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lock = path.with_suffix(".lock")

    def load(self, config: Any) -> Any:
        """Put the timings into use; returns the `ITimingCache`, empty where the file is of no use."""
        content = b""
        with locked(self.lock), contextlib.suppress(FileNotFoundError):
            content = self.path.read_bytes()
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            log.warning("%s: damaged, or of another TensorRT or GPU; replaced", self.path)
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        return cache

    def save(self, config: Any, cache: Any) -> None:
        """Write `cache`, with what the file holds by now."""
        with locked(self.lock):
            with contextlib.suppress(FileNotFoundError):
                written = config.create_timing_cache(self.path.read_bytes())
                # What both have measured stays as it is in `cache`.
                if written is None or not cache.combine(written, False):
                    log.warning("%s: damaged, or of another TensorRT or GPU; replaced", self.path)
            _keep(self.path, bytes(memoryview(cache.serialize())))


class BuildCache:
    """The files of one TensorRT version on one kind of GPU."""

    def __init__(self, folder: Path, tensorrt: str, gpu: str, compute_capability: str):
        self._machine = (tensorrt, gpu, compute_capability)
        name = re.sub(r"[^A-Za-z0-9.]+", "_", "-".join(self._machine))
        self._folder = folder / "tensorrt" / name
        self._plans = self._folder / "plans"

    def open(self) -> bool:
        """Make the folders; False, with a warning, where that is impossible."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Plans are code: nobody else may put one there.
            self._plans.mkdir(mode=0o700, exist_ok=True)
            self.timings.lock.touch()
        except OSError as error:
            log.warning("%s: no cache (%s)", self._folder, error.strerror)
            return False
        return True

    @property
    def timings(self) -> TimingCacheFile:
        return TimingCacheFile(self._folder / "timing.cache")

    def plan(self, onnx_path: Path, options: TensorRTOptions, build: Callable[[], bytes]) -> bytes:
        """The plan of `build`, or of an earlier or simultaneous build of the same file and options."""
        if not self._is_private():
            log.warning("%s: others can write here; plans are not shared", self._plans)
            return build()
        key = self._key(onnx_path, options)
        path = self._plans / f"{key}.plan"
        # Lock files are never removed (a process may be waiting with one open), so they are few.
        with locked(self._plans / f"{key[:2]}.lock"):
            plan = _read_plan(path)
            if plan is not None:
                log.info("%s: taken, no build needed", path)
                os.utime(path)
                return plan
            plan = build()
            _keep(path, hashlib.sha256(plan).digest() + plan)
            self._forget_old_plans()
            return plan

    def _is_private(self) -> bool:
        status = self._plans.stat()
        others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return status.st_uid == os.geteuid() and not others

    def _key(self, onnx_path: Path, options: TensorRTOptions) -> str:
        values = dataclasses.asdict(options)
        relevant = {name: value for name, value in values.items() if name not in _NOT_IN_KEY}
        parts = [sha256_of(onnx_path), relevant, *self._machine]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _forget_old_plans(self) -> None:
        """Keep the plans that were used last."""
        with contextlib.suppress(OSError):  # another process forgets, too
            plans = sorted(self._plans.glob("*.plan"), key=lambda plan: plan.stat().st_mtime)
            for plan in plans[:-PLANS_KEPT]:
                plan.unlink()


def _keep(path: Path, content: bytes) -> None:
    """Write a file; a full disk is no reason to lose the build."""
    try:
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
    except ResourceError as error:
        log.warning("not kept for other builds: %s", error)


def _read_plan(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, plan = content[:32], content[32:]
    if hashlib.sha256(plan).digest() != digest:
        log.warning("%s: damaged; building it again", path)
        return None
    return plan
