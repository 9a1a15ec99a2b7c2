"""Workers that crash, hang, complain or chatter: each is one `WorkerFailure`, and the bench goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.process import WorkerFailure, WorkerProcess, environment
from tests.bench.ended import ends, gone

MODULE = "tests.bench.misbehaving"


@pytest.fixture
def worker(tmp_path: Path) -> WorkerProcess:
    process = WorkerProcess("w", tmp_path / "logs" / "w.log", module=MODULE)
    yield process
    process.kill()


def test_answers_and_events(worker: WorkerProcess) -> None:
    events: list[dict[str, object]] = []
    assert worker.call("count", on_event=events.append, to=3) == {"counted": 3}
    assert events == [{"done": 1}, {"done": 2}, {"done": 3}]
    assert worker.call("count", to=0) == {"counted": 0}, "it goes on"


def test_what_a_library_prints_does_not_reach_the_channel(worker: WorkerProcess) -> None:
    assert worker.call("chatter") == {"said": True}
    assert "from python" in worker.log.read_text()
    assert "from C" in worker.log.read_text()


def test_user_error_is_one_line_and_the_worker_lives(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerFailure, match="^weights: missing; export again$") as caught:
        worker.call("complain")
    assert not caught.value.unavailable
    assert worker.call("count", to=1) == {"counted": 1}


def test_unavailable_is_told_apart(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerFailure, match="no such device") as caught:
        worker.call("lack")
    assert caught.value.unavailable


def test_bug_keeps_its_type_and_its_traceback_in_the_log(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerFailure, match="^ZeroDivisionError: .*by zero$"):
        worker.call("bug")
    assert "Traceback" in worker.log.read_text()


def test_not_a_number_is_an_error_not_broken_json(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerFailure, match="ValueError"):
        worker.call("nan")
    assert worker.call("count", to=1) == {"counted": 1}


def test_crash_names_the_signal_the_log_and_its_last_line(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerFailure, match=r"crashed in 'crash' \(signal SIGSEGV\); see logs/w.log: about to crash"):
        worker.call("crash")
    assert not worker.alive
    with pytest.raises(WorkerFailure, match="crashed in 'count'"):
        worker.call("count", to=1)


def test_exit_is_a_crash_too(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerFailure, match=r"crashed in 'leave' \(exit code 3\)"):
        worker.call("leave")


def test_hang_is_ended(worker: WorkerProcess) -> None:
    worker.call("count", to=0)
    with pytest.raises(WorkerFailure, match="hung in 'hang': said nothing for 1 s; it was ended"):
        worker.call("hang", silence=1.0)
    assert not worker.alive
    assert gone(worker.pid)


def test_endless_progress_meets_the_limit(worker: WorkerProcess) -> None:
    worker.call("count", to=0)
    with pytest.raises(WorkerFailure, match="had not finished after 1 s"):
        worker.call("forever", silence=30.0, limit=1.0)
    assert not worker.alive


def test_what_a_hanging_worker_started_is_ended_with_it(worker: WorkerProcess) -> None:
    child = worker.call("spawn")["pid"]
    with pytest.raises(WorkerFailure):
        worker.call("hang", silence=0.5)
    assert ends(child), "the grandchild lives on"


def test_worker_ends_when_its_input_closes(worker: WorkerProcess) -> None:
    worker.call("count", to=1)
    worker.close()
    assert not worker.alive
    assert worker._process.returncode == 0


def test_threads_are_set_for_every_pool() -> None:
    env = environment(3, base={"PATH": "/bin"})
    assert {env[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"3"}
    assert "OMP_NUM_THREADS" not in environment(None, base={})


def test_a_worker_does_not_outlive_its_bench(tmp_path: Path) -> None:
    """Also when the bench is killed while a command runs."""
    script = (
        "import sys, pathlib; from bench.process import WorkerProcess\n"
        f"w = WorkerProcess('w', pathlib.Path({str(tmp_path / 'w.log')!r}), module={MODULE!r})\n"
        "w.call('count', to=0); print(w.pid, flush=True); w.call('hang')\n"
    )
    bench = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment(), text=True)
    assert bench.stdout is not None
    pid = int(bench.stdout.readline())
    bench.kill()
    bench.wait()
    assert ends(pid), "the worker lives on"
