"""Building on a Ray cluster: the same files, blocks in order, few on their way, failures in one line."""

from __future__ import annotations

import importlib.util
import json
import pickle
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgecall.cli import main
from runtimes.errors import UserError
from tests.edgecall.conftest import Ran
from tests.edgecall.conftest import python as python  # the fixture
from tests.train.recipes import small_recipe
from train.data import blocks
from train.data.build import build_data
from train.data.on_ray import LOCAL, made_on_ray
from train.data.recipe import load_recipe


class RayError(Exception):
    pass


class TaskError(RayError):
    """As Ray's: the text is a traceback, what the task raised is `cause`."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("ray::make_block() (pid=7)\n  File …\n" + str(cause))
        self.cause = cause


@dataclass
class Cluster:
    """What stands in for Ray: tasks run when a result is wanted, the latest first, on pickled copies."""

    cpus: float = 2
    fail: Callable[[Any], Exception | None] = lambda block: None
    reachable: Exception | None = None
    joined: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0
    stored: list[bytes] = field(default_factory=list)
    pending: dict[int, Callable[[], Any]] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    ran: list[int] = field(default_factory=list)
    most: int = 0

    def module(self) -> ModuleType:
        ray = ModuleType("ray")
        ray.__spec__ = ModuleSpec("ray", None)
        names = ("init", "shutdown", "put", "get", "remote", "cluster_resources")
        ray.__dict__.update({name: getattr(self, name) for name in names})
        ray.exceptions = SimpleNamespace(RayError=RayError)  # type: ignore[attr-defined]
        return ray

    def init(self, **options: Any) -> None:
        self.joined.append(options)
        if self.reachable:
            raise self.reachable

    def shutdown(self) -> None:
        self.left += 1

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus, "memory": 1e9}

    def put(self, value: Any) -> tuple[str, int]:
        self.stored.append(pickle.dumps(value))
        return "stored", len(self.stored) - 1

    def remote(self, function: Callable[..., Any]) -> Any:
        work = pickle.loads(pickle.dumps(function))  # by its name, as a worker finds it

        def submit(shared: tuple[str, int], block: Any) -> int:
            def task() -> Any:
                if error := self.fail(block):
                    return error
                return pickle.dumps(work(pickle.loads(self.stored[shared[1]]), pickle.loads(pickle.dumps(block))))

            number = len(self.ran) + len(self.pending)
            self.pending[number] = task
            self.most = max(self.most, len(self.pending) + len(self.results))
            return number

        return SimpleNamespace(remote=submit)

    def get(self, number: int) -> Any:
        for later in sorted(self.pending, reverse=True):
            self.results[later] = self.pending.pop(later)()
            self.ran.append(later)
        result = self.results.pop(number)
        if isinstance(result, Exception):
            raise result
        return pickle.loads(result)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setitem(sys.modules, "ray", found.module())
    monkeypatch.setattr(blocks, "ROWS", 11)
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("cpus", [0, 1, 3, 64])
def test_the_files_are_the_same(tmp_path: Path, cluster: Cluster, cpus: int) -> None:
    cluster.cpus = cpus
    path = small_recipe(tmp_path)
    assert main(["data", "build", str(path), "--out", str(tmp_path / "here")]) == 0
    assert not cluster.joined
    assert main(["data", "build", str(path), "--out", str(tmp_path / "ray"), "--ray", "auto"]) == 0
    assert content(tmp_path / "ray") == content(tmp_path / "here")
    assert len(content(tmp_path / "ray")) == 5
    assert (len(cluster.joined), cluster.left, len(cluster.stored)) == (1, 1, 1)  # the recipe is sent once
    assert len(cluster.ran) == 4 + 6 + 28 and not cluster.pending and not cluster.results
    assert cluster.ran != sorted(cluster.ran) or cpus == 0  # they did come out of order


@pytest.mark.parametrize(("cpus", "most"), [(0, 2), (1, 2), (2.5, 4), (6, 12)])
def test_few_blocks_are_on_their_way(tmp_path: Path, cluster: Cluster, cpus: float, most: int) -> None:
    cluster.cpus = cpus
    recipe = load_recipe(small_recipe(tmp_path, rows={"train": 2000, "dev": 0, "test": 0}))
    with made_on_ray(recipe, "auto") as source:
        made = source("train")
        numbers = []
        for block in made:
            numbers += [int(row.id.rsplit("-", 1)[1]) for row in block]
            assert len(cluster.ran) <= len(numbers) / 11 + most
    assert numbers == list(range(2000))
    assert cluster.most == most


def test_corpora_stay_here(tmp_path: Path, cluster: Cluster) -> None:
    (tmp_path / "data" / "snips").mkdir(parents=True)
    said = [{"data": [{"text": f"play song {n}"}]} for n in range(300)]
    (tmp_path / "data" / "snips" / "train_PlayMusic_full.json").write_text(json.dumps({"PlayMusic": said}))
    path = small_recipe(tmp_path, corpora=[{"source": "snips", "no_call": True}])
    recipe = load_recipe(path, tmp_path / "data")
    report = build_data(recipe, tmp_path / "here", [])
    assert report["train"]["by_tool"]["no call"] > 150
    with made_on_ray(recipe, "auto") as source:
        (tmp_path / "moved").mkdir()
        assert build_data(recipe, tmp_path / "ray", [], source) == report
    assert content(tmp_path / "ray") == content(tmp_path / "here")
    assert len(cluster.ran) == 4 + 6 + 28


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TaskError(KeyError("unknown slot {x}")), "KeyError: 'unknown slot {x}'"),
        (
            RayError("The worker died unexpectedly\nwhile executing this task."),
            "RayError: The worker died unexpectedly",
        ),
        (ConnectionError("Client disconnected"), "ConnectionError: Client disconnected"),
    ],
)
def test_a_failing_worker_is_one_line(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str], error: Exception, told: str
) -> None:
    cluster.fail = lambda block: error if (block.split, block.start) == ("train", 55) else None
    out = tmp_path / "out"
    assert main(["data", "build", str(small_recipe(tmp_path)), "--out", str(out), "--ray", "auto"]) == 2
    expected = f"edgecall: --ray: rows 55 to 65 of train could not be made ({told}); nothing written\n"
    assert capsys.readouterr().err == expected
    assert not out.exists() and cluster.left == 1


def test_what_is_wrong_with_the_recipe_is_not_blamed_on_the_cluster(tmp_path: Path, cluster: Cluster) -> None:
    cluster.fail = lambda block: TaskError(UserError("recipe.yaml:7: pattern 'lamp': a call breaks toolset shed"))
    recipe = load_recipe(small_recipe(tmp_path))
    with (
        pytest.raises(UserError, match="^recipe.yaml:7: pattern 'lamp': a call"),
        made_on_ray(recipe, "auto") as source,
    ):
        build_data(recipe, tmp_path / "out", [], source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("auto", "--ray: no Ray cluster at auto (ConnectionError: Could not find any running Ray instance.); nothing"),
        (LOCAL, "--ray: a local Ray cluster cannot be started (ConnectionError: Could not find any running Ray"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_one_line(tmp_path: Path, cluster: Cluster, address: str, told: str) -> None:
    cluster.reachable = ConnectionError("Could not find any running Ray instance.\nPlease specify one.")
    recipe = load_recipe(small_recipe(tmp_path))
    with pytest.raises(UserError) as raised, made_on_ray(recipe, address):
        pass
    assert str(raised.value).startswith(told) and "\n" not in str(raised.value)


def test_without_an_address_the_cluster_is_local(tmp_path: Path, cluster: Cluster) -> None:
    recipe = str(small_recipe(tmp_path))
    assert main(["data", "build", recipe, "--ray", "--out", str(tmp_path / "out")]) == 0
    assert cluster.joined[0]["address"] == "local" and cluster.left == 1
    for room in cluster.joined[0]["runtime_env"]["py_modules"]:
        assert (Path(room) / "__init__.py").is_file()


@pytest.mark.parametrize("address", ["", "head", "http://head:1", "ray://head", "head:port", "a b:1"])
def test_what_is_no_address_is_told(tmp_path: Path, cluster: Cluster, address: str) -> None:
    with pytest.raises(UserError, match="is no address; there are auto, host:port and ray://host:port"):
        with made_on_ray(load_recipe(small_recipe(tmp_path)), address):
            pass
    assert not cluster.joined


@pytest.mark.parametrize(
    ("address", "knocked"),
    [("auto", None), ("head:6379", ("head", 6379)), ("[::1]:6379", ("::1", 6379)), ("ray://a.b:10001", ("a.b", 10001))],
)
def test_addresses(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, address: str, knocked: tuple[str, int] | None
) -> None:
    calls = []
    monkeypatch.setattr(socket, "create_connection", lambda place, timeout: calls.append(place) or socket.socket())
    with made_on_ray(load_recipe(small_recipe(tmp_path)), address):
        assert cluster.joined[0]["address"] == address
    assert calls == [knocked] * (knocked is not None)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nobody_listens(tmp_path: Path, cluster: Cluster, scheme: str) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, and not listened to
        address = f"{scheme}127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"no Ray cluster at {address} \(ConnectionRefusedError"):
            with made_on_ray(load_recipe(small_recipe(tmp_path)), address):
                pass
    assert not cluster.joined


def test_without_ray_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    assert main(["data", "build", str(small_recipe(tmp_path)), "--out", str(tmp_path / "out"), "--ray"]) == 2
    expected = 'edgecall: ray is not installed; it comes with an extra: pip install "edgecall[ray]"\n'
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='ray is not installed (pip install "edgecall[ray]")'
)
def test_ray_itself(tmp_path: Path, python: Callable[..., Ran]) -> None:
    path = small_recipe(tmp_path, rows={"train": 5000, "dev": 100, "test": 40})
    build_data(load_recipe(path), tmp_path / "here", [])
    ran = python("-m", "edgecall", "data", "build", str(path), "--out", str(tmp_path / "ray"), "--ray")
    assert (ran.code, ran.err) == (0, "")
    assert content(tmp_path / "ray") == content(tmp_path / "here")
