"""Writes the report of a run folder again, without Hydra: python -m src.report RUN_DIR."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.build import prepare
from src.doors import opened
from src.folder import RunFolder
from src.pages.report import page
from src.world import ALONE


def report(run_dir: str) -> Path:
    """-> the page."""
    home = RunFolder(Path(run_dir).absolute())
    words = home.words()
    words["trainer"] |= {**ALONE, "accelerator": "auto", "precision": "32-true"}  # this machine may be another one
    with home.lock():
        page(prepare(words, home))
    return home.path / "report" / "index.html"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.report", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a run folder; its images must still be where they were")
    words = parser.parse_args()
    return opened(lambda: print(report(words.run_dir)))


if __name__ == "__main__":
    sys.exit(main())
