"""What the machine is, and telling when it was busy."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.machine import CpuTimes, calibrate, cpu_times, describe, device_memory_mb, foreign_cores, peak_rss_mb
from bench.timing import _flag


def test_description_is_complete() -> None:
    found = describe()
    assert set(found) == {"os", "cpu", "cores", "memory_gb", "gpu", "python"}
    assert found["os"] and found["cpu"] and found["cores"] >= 1
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_calibration_takes_time() -> None:
    assert calibrate(1) > 0


def test_foreign_work_by_hand() -> None:
    # Ten seconds in which all cores worked 14 s and our processes 9 s: half a core was somebody else's.
    assert foreign_cores(CpuTimes(0, 100, 50), CpuTimes(10, 114, 59)) == 0.5
    assert foreign_cores(CpuTimes(0, 100, 50), CpuTimes(10, 105, 56)) == 0.0, "rounding of counters is no negative work"
    assert foreign_cores(None, CpuTimes(10, 0, 0)) is None
    assert foreign_cores(CpuTimes(0, 0, 0), CpuTimes(0.01, 5, 0)) is None, "too short to tell"


def test_own_work_is_ours() -> None:
    pytest.importorskip("psutil")
    before = cpu_times([])
    calibrate(30)
    after = cpu_times([999_999_999])
    assert before is not None and after is not None
    assert after.ours > before.ours


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own counter")
def test_peak_memory_is_this_process_alone() -> None:
    """A child of a large process is small: `ru_maxrss` would say otherwise."""
    ballast = bytearray(os.urandom(1 << 20)) * 300
    code = "from bench.machine import peak_rss_mb; print(peak_rss_mb())"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": "."}
    )
    mine = peak_rss_mb()
    assert mine is not None and mine > len(ballast) / 1e6
    assert float(child.stdout) < len(ballast) / 1e6


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_memory_of_another_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        peak = peak_rss_mb(child.pid)
        assert peak is not None and peak > 0
    finally:
        child.kill()
        child.wait()
    assert peak_rss_mb(child.pid) is None, "it is gone"


def test_no_device_memory_on_the_cpu() -> None:
    assert device_memory_mb("cpu") is None


def reading(**more: float | None) -> dict[str, float | None]:
    return {"calibration_ms": 10.0, "foreign_cores": 0.0} | more


def test_busy_blocks_are_flagged() -> None:
    flagged = _flag(
        [
            reading(),
            reading(calibration_ms=12.0),
            reading(calibration_ms=13.0),
            reading(foreign_cores=0.4),
            reading(foreign_cores=None),
            reading(foreign_cores=0.2),
        ]
    )
    assert [block["busy"] for block in flagged] == [False, False, True, True, False, False]
