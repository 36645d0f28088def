"""What the tests share: small image folders, and a process that runs train.py without importing torch each time."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# The workers, the processes they start and the notebooks share two cores: threads that wait for each other would crawl.
# Said before anything is imported that asks how many it may have, torch above all.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, then the larger ones: a process that is done should not wait long for the other."""
    count = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.path.suffix == ".ipynb"}
    items.sort(key=lambda item: (item.path not in slow, -count[item.path]))


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def killed(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def latest(words: Sequence[str]) -> list[str]:
    """The last one of each key: those before it are what other tests take, too."""
    return list({word.partition("=")[0]: word for word in words}.values())


@dataclass
class Zygote:
    process: subprocess.Popen
    log: Path
    code: int = 0

    def run(self, *argv: str, broken_report: bool = False, **more) -> int:
        """Runs `python train.py *argv` in a process of its own and returns its exit code (-9: killed); of words with
        one key the last. A report that cannot be drawn fails no run, but the test. more: that of `running`."""
        with self.running(*argv, **more):
            pass
        assert broken_report or " is left out: " not in self.screen, self.screen
        return self.code

    @contextmanager
    def running(
        self, *argv: str, fault: dict | None = None, seed: int = 0, ranks: int = 1, seconds: float = 500
    ) -> Iterator[int]:
        """The same, while the test looks on: gives the process id, and `code` afterwards. ranks: how many there are,
        the further ones as children of the first, which Lightning's launcher thinks to have started. seconds: after so
        many it is killed."""
        self.log.write_text("")
        job = {"argv": latest(argv), "fault": fault, "seed": seed, "log": str(self.log), "ranks": ranks}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        late = threading.Timer(seconds, killed, (pid,))
        try:
            yield pid
            late.start()
            self.code = int(self.process.stdout.readline())
        except BaseException:
            killed(pid)
            self.process.stdout.readline()  # its code, which nobody asks for any more
            raise
        finally:
            late.cancel()

    @property
    def screen(self) -> str:
        return self.log.read_text()


@contextmanager
def zygote_of(tree: Path, log: Path) -> Iterator[Zygote]:
    """One that runs the train.py of a copy of this tree."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.zygote"],
        cwd=tree,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tree)},
    )
    try:
        yield Zygote(process, log)
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    with zygote_of(ROOT, tmp_path_factory.mktemp("zygote") / "screen.txt") as process:
        yield process


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """48 train, 16 val and 24 test images of 20×20 pixels in two classes, told apart by where they are bright."""
    root = tmp_path_factory.mktemp("shapes")
    draw = np.random.default_rng(0)
    for split, n in (("train", 24), ("val", 8), ("test", 12)):
        for c, name in enumerate(("left", "right")):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = draw.integers(0, 120, (20, 20, 3), dtype=np.uint8)
                pixels[:, 10 * c : 10 * c + 10] += 100
                Image.fromarray(pixels).save(root / split / name / f"{i:02d}.png")
    return root


# A fifth of a small run's time goes into the report: for runs of which others' reports are drawn anyway.
NO_REPORT = "stages=[probe,fit,select,calibrate,refit,test,robustness]"
SMALL = ("model.name=test_resnet", "model.pretrained=false", "model.image_size=32", "trainer.accelerator=cpu")


def words(shapes: Path, folder: Path) -> list[str]:
    """A run on `shapes` that takes a second: 6 updates an epoch, 18 in all, dropout and drop-path on."""
    return [
        "data=folder", f"data.root={shapes}", "data.batch_size=8", "data.flip=0", *SMALL, "model.drop_rate=0.2",
        "model.drop_path_rate=0.1", "trainer.max_epochs=3", f"paths.logs={folder / 'logs'}",
        f"paths.cache={folder / 'cache'}", "callbacks.last.every_n_train_steps=2", "trainer.log_every_n_steps=1",
        "logger=[csv]", "recipe=off",
    ]  # fmt: skip


@pytest.fixture
def small(shapes, tmp_path) -> list[str]:
    return words(shapes, tmp_path)


@pytest.fixture(scope="session")
def whole(zygote, shapes, tmp_path_factory) -> Path:
    """The folder of a run of `words` that nobody interrupted. Not to be written to."""
    folder = tmp_path_factory.mktemp("whole")
    assert zygote.run(*words(shapes, folder), f"run_dir={folder / 'run'}") == 0, zygote.screen
    return folder / "run"
