"""What is said on the screen before the first batch and after the last stage."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.check.words import written
from src.contracts import InputSpec, Source
from src.facts import Probed
from src.folder import RunFolder
from src.recipe import Decision

BLIND = "NOT BETTER than the best answer that does not look at the images: they may not show what is asked."


def cards(
    home: RunFolder,
    source: Source,
    found: Sequence[str],
    network: Any,
    spec: InputSpec,
    notes: list[str],
    groups: Sequence[dict[str, Any]],
    cfg: dict[str, Any],
) -> None:
    """The run folder, the data, the network, and everything that was decided for the user. groups: those of the
    optimizer; none where nothing is fitted."""
    total = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    rates = sorted({g["lr"] for g in groups})
    name, data = cfg["model"].get("name", cfg["model"]["_target_"]), cfg["data"]
    rate = " … ".join(f"{rate:.2g}" for rate in dict.fromkeys((*rates[:1], *rates[-1:])))
    learnt = f"{trained / 1e6:.2f} M trained, learning rate {rate}" if rates else "none trained"
    print(f"run      {short(home.path)}")
    print(f"data     {source.root}")
    for line in found:
        print(f"         {line}")
    print(f"network  {name}: {total / 1e6:.2f} M parameters, {learnt}")
    print(f"         input {spec.channels}×{spec.size[0]}×{spec.size[1]}, {data['resize']}, {spec.interpolation}")
    for note in (*source.notes, *notes):
        print(f"         {note}")
    print(flush=True)


def recipe(
    found: Sequence[str], plan: Sequence[Decision], typed: Sequence[str], probed: Probed | None, network: str | None
) -> str:
    """recipe.md: what was decided, as words that could be typed, and why; said on the screen too."""
    lines = [f"network  {network}"] if network else []
    if probed:
        last = f"{100 * probed.last:.1f} % by the last features"
        lines.append(f"probe    {100 * probed.score:.1f} % held out, by {probed.head}; {last}")
        lines += [f"         {note}" for note in probed.notes]
    width = min(max((len(d.override) for d in plan), default=0), 34)  # a file's path may be longer
    for i, decision in enumerate(plan):
        lines.append(f"{'recipe' if i == 0 else '':9}{decision.override:{width}}  {decision.reason}")
    print("\n".join(lines), flush=True)
    said = [(d.override, d.reason) for d in plan] + [(word, "yours") for word in typed]
    rows = ["| `{}` | {} |".format(word.replace("|", "\\|"), why) for word, why in said]
    told = [f"The probe: {100 * probed.score:.2f} % held out, by {probed.head}.", *probed.notes] if probed else []
    head = [line for sentence in told for line in (sentence, "")]
    data = ["## The images", "", *(f"- {line}" for line in found), ""]
    return "\n".join(["# Recipe", "", *data, "## Decided", "", *head, "| decided | why |", "|---|---|", *rows]) + "\n"


def yours(typed: Sequence[str]) -> None:
    """What was not decided."""
    print("\n".join(f"{'yours' if i == 0 else '':9}{word}" for i, word in enumerate(typed)), flush=True)


def last_screen(home: RunFolder) -> None:
    """The result with its interval, and what to type next."""
    metrics, state = home.metrics(), home.state()
    judged = [k.removesuffix("/constant") for k in metrics if k.endswith("/constant")]
    print()
    if judged and not state.get("beaten", True):
        print(BLIND)
    for name in judged:
        split, images = name.partition("/")[0], f"{name.rpartition('/')[0]}/images"
        seen, there = int(metrics[images]), state["images"][split]
        bounds = [said(name, metrics[key]) for key in (f"{name}/low", f"{name}/high") if key in metrics]
        sure = f"95 % interval {' – '.join(bounds)}" if bounds else "no interval"
        many = f"{seen} of {there}" if seen < there else f"{seen}"
        print(f"{name}  {said(name, metrics[name])}  ({sure}, {many} images)")
        print(f"blind answer  {said(name, metrics[f'{name}/constant'])}")
    if not judged:
        shown = "test/" if "test/images" in metrics else "val/"
        print("  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k.startswith(shown) and v is not None))
    if metrics.get("test/ece/uncalibrated", metrics.get("test/ece")) != metrics.get("test/ece"):
        print(f"calibrated  test/ece {metrics['test/ece']:.4f}, before {metrics['test/ece/uncalibrated']:.4f}")
    if "test/coverage" in metrics and "test/set_size" in metrics:
        held = f"{100 * metrics['test/coverage']:.1f} % of the test images"
        print(f"sets        hold the truth of {held}, {metrics['test/set_size']:.2f} classes each")
    if "test/unfamiliar" in metrics:
        print(f"unfamiliar  {100 * metrics['test/unfamiliar']:.1f} % of the test images are called so")
    if "select/epoch" in metrics:
        print(f"chosen      {state['chosen']}, epoch {metrics['select/epoch'] + 1} of {metrics['fit/epochs']}")
    elif "chosen" in state:
        print(f"chosen      {state['chosen']}")
    spent = "  ".join(f"{name} {seconds:.1f} s" for name, seconds in state.get("seconds", {}).items())
    run, python = short(home.path), short(Path(sys.executable))
    print(f"run folder  {run}\nseconds     {spent}\n")
    if (page := run / "report" / "index.html").is_file():
        print(f"report    {page}")
    if (run / "tensorboard").is_dir():
        print(f"look      {python} -m tensorboard.main --logdir {run / 'tensorboard'}")
    if (home.path / "model").is_dir():
        print(f"predict   {python} -m src.predict {run} IMAGES")
    more = "" if "select" in state.get("done", ()) else " stages=[fit,select,calibrate,refit,test,report]"
    print(f"resume    {resume_command(home)}{more}", flush=True)


def resume_command(home: RunFolder) -> str:
    """For the shell."""
    train = short(Path(__file__).parent.parent / "train.py")
    return shlex.join([str(short(Path(sys.executable))), str(train), written("resume", short(home.path))])


def short(path: Path) -> Path:
    """As it is typed from here: relative where it lies below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def said(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name.endswith("acc") else f"{value:.4f}"
