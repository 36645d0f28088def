"""THE ROAD: decide what is run, build it, go through the stages. A reader meets everything in the order it happens."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from contextlib import suppress

from omegaconf import DictConfig

from src import contest, doors, folder, hardware, resume, screen, signals, world
from src.build import build
from src.contracts import ConfigError, DataError
from src.decide import decide
from src.pages.report import report
from src.stages.calibrate import calibrate
from src.stages.find_lr import find_lr
from src.stages.fit import fit
from src.stages.refit import refit
from src.stages.robustness import robustness
from src.stages.select import select
from src.stages.test import test

STAGES = {stage.__name__: stage for stage in (find_lr, fit, select, calibrate, refit, test, robustness, report)}


def job(cfg: DictConfig) -> int:
    """One run, from the door: the exit code. Faults are told in a paragraph; DEBUG=1 shows the traceback."""
    home: folder.RunFolder | None = None
    code, state = 1, "failed"
    quiet()
    try:
        signals.install()
        world.end_with_parent()
        home = resume.open_home(cfg)
        run(cfg, home)
        return 0
    except signals.Stopped as stop:
        # Lightning's launcher would kill rank 0, which may still be saving, when another one ends with a code
        code, state = 0 if world.launched() else stop.code, "preempted"
        if home and world.rank() == 0:
            print(f"\nStopped. To go on: {screen.resume_command(home)}", file=sys.stderr)
    except (ConfigError, DataError) as error:
        code = doors.told(error)
    except Exception as error:
        code = doors.told(error, _why(error, home) if home else "")
    finally:
        signals.defer(False)
    if home and home.locked and home.state().get("state") == "running":
        with suppress(OSError):  # on a full disk, which was told
            home.update(state=state)
    if home and home.locked and code in (2, 3):
        resume.discard(home)
    return code


def quiet() -> None:
    """Lightning's notes about devices and paid services, and what torch 2.14 says of Lightning 2.6's own code."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
    warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", "GPU available but not used")  # trainer.accelerator=cpu was said
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # a resumed run's own


def _why(error: Exception, home: folder.RunFolder) -> str:
    """What is behind a fault that lies in no word of the user; '' where that is not known."""
    if lost := world.lost(error):
        again = screen.resume_command(home)
        return f"{lost}\nWhat that one has said is above, or it was killed. To go on, with as many ranks: {again}"
    return hardware.too_large(error, home.words()) if home.config.is_file() else ""


def run(cfg: DictConfig, home: folder.RunFolder) -> dict[str, float]:
    leader = world.rank() == 0
    with home.lock() if leader else resume.follow(home):
        if leader and not home.config.is_file():
            cfg = decide(cfg, home)
        words = resume.decide(cfg, home) if leader else resume.read(cfg, home)
        if not set(words["stages"]) - set(home.state()["done"]):
            if leader:
                home.update(state="finished")
                print(f"\nThe stages {', '.join(words['stages'])} of {home.path} are done.")
                screen.last_screen(home)
            return home.metrics()
        if going := contest.going(home, words):
            contest.hold(cfg, home)
        if going or not leader:  # who has read before the contest ended has read of a network that lost
            words = resume.read(cfg, home)
        r = build(words, home)
        for name in STAGES:
            if name in words["stages"]:
                home.once(STAGES[name], r, r.leader)
        if leader:
            home.update(state="finished", ended=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
            screen.last_screen(home)
        return home.metrics()
