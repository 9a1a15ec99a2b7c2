"""What machine this is, and how busy it is while something is measured on it."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.base import available_cores

CALIBRATION_STEPS = 200_000
SLOW = 1.25
"""A calibration this many times the run's best means that the machine was slower just then."""
FOREIGN_CORES = 0.3
"""More than this many cores' worth of other processes' work (or stolen time) means that it was busy."""


def describe() -> dict[str, Any]:
    """The machine entry of the report (without `id`): os, cpu, cores, memory_gb, gpu, python."""
    return {
        "os": _os_name(),
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "memory_gb": _memory_gb(),
        "gpu": _gpu_name(),
        "python": platform.python_version(),
    }


def calibrate(repeats: int = 3) -> float:
    """Milliseconds of a fixed loop of integer arithmetic, best of `repeats`: slower later means a slower machine."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        total = 0
        for i in range(CALIBRATION_STEPS):
            total += i & 7
        best = min(best, time.perf_counter() - started)
    return best * 1e3


def load_average() -> float | None:
    """The one-minute load average; None where the system has none (Windows)."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


@dataclass(frozen=True)
class CpuTimes:
    """Seconds at one moment: the wall clock, all cores' work, and that of the processes that were watched."""

    wall: float
    busy: float
    ours: float


def cpu_times(pids: list[int]) -> CpuTimes | None:
    """Read the kernel's counters for the machine and for `pids` and this process; None where there are none."""
    try:
        import psutil
    except ImportError:
        return None
    total = psutil.cpu_times()
    busy = sum(total) - total.idle - getattr(total, "iowait", 0.0)
    # Guests' time is counted in user time too.
    busy -= getattr(total, "guest", 0.0) + getattr(total, "guest_nice", 0.0)
    ours = 0.0
    for pid in {*pids, os.getpid()}:
        try:
            spent = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        ours += spent.user + spent.system
    return CpuTimes(time.monotonic(), busy, ours)


def foreign_cores(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """Cores' worth of work between two readings that was not ours; None where it cannot be told."""
    if before is None or after is None or after.wall - before.wall < 0.05:
        return None
    foreign = (after.busy - before.busy) - (after.ours - before.ours)
    return round(max(0.0, foreign / (after.wall - before.wall)), 2)


def peak_rss_mb(pid: int | None = None) -> float | None:
    """Largest resident memory of this process so far, or of `pid`, in MB (10^6 bytes); None where nobody says.

    Linux's own high-water mark is read first: `ru_maxrss` there is inherited from the process that started this one.
    """
    try:
        for line in Path(f"/proc/{pid or 'self'}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    if pid is not None:
        return None
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if platform.system() == "Darwin" else peak * 1024) / 1e6


def device_memory_mb(device: str) -> float | None:
    """GPU memory that this process holds, from the NVIDIA driver; None off CUDA or where it does not say."""
    if not device.startswith("cuda"):
        return None
    text = _output(["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"])
    for line in (text or "").splitlines():
        pid, _, used = line.partition(",")
        if pid.strip() == str(os.getpid()) and used.strip().isdigit():
            return int(used) * 1.048576
    return None


def _os_name() -> str:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]} {platform.machine()}"
    try:
        pretty = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
        return f"{pretty} (Linux {platform.release()}) {platform.machine()}"
    except OSError:
        return f"{platform.system()} {platform.release()} {platform.machine()}"


def _cpu_name() -> str:
    if platform.system() == "Darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _gpu_name() -> str | None:
    name = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    if name:
        return name.splitlines()[0]
    return _cpu_name() + " (integrated)" if platform.system() == "Darwin" and platform.machine() == "arm64" else None


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
