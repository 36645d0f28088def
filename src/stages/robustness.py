"""How the shipped model does on test images that are bad, moved or attacked; to robustness.json."""

from __future__ import annotations

import json
import time
from typing import Any

import torch

from src import folder, hardware, rng
from src.contracts import ConfigError, Exam, Run
from src.factory import make
from src.stages.predict import calibration, measure


def robustness(run: Run) -> None:
    parts = tests(run)
    if not parts or not run.leader:
        return
    if "test" not in run.source.splits or not run.source.splits["test"].labelled:
        print("robustness: there are no test images with labels; nothing was measured.")
        return
    exam = sit(run, max(part.images for part in parts))
    began = time.monotonic()
    exam.logits(exam.images[: exam.batch_size])
    each, most = (time.monotonic() - began) / min(len(exam.images), exam.batch_size), sum(p.passes() for p in parts)
    print(
        f"robustness: {len(exam.images)} of {len(run.source.splits['test'])} test images, at most {most} passes over "
        f"them: about {1.5 * each * most * len(exam.images) / 60:.1f} minutes", flush=True,
    )  # fmt: skip
    found: dict[str, Any] = {"images": len(exam.images), "metric": run.task.monitor.removeprefix("val/")}
    for part in parts:
        told = part(exam)
        print("\n".join(part.lines(told)), flush=True)
        found |= told
    folder.write(run.home.path / "robustness.json", json.dumps(found, indent=1) + "\n")


def tests(run: Run) -> list[Any]:
    """Those that are asked for; raises ConfigError where one cannot be made of this task. Of all, those that can."""
    made = make(run.cfg["robustness"])
    parts = made if isinstance(made, list) else [made] if made else []
    why = [part.cannot(run.task, run.spec.channels) for part in parts]
    if run.task.dense:
        why = ["masks are not measured in it" for _ in parts]
    if parts and all(why):
        name = run.cfg["robustness"]["_target_"].rpartition(".")[2].lower()
        other = "" if run.task.dense else ", or one of the others"
        raise ConfigError(f"robustness={name}: {why[0]}.\nSet robustness=none{other}.")
    return [part for part, reason in zip(parts, why, strict=True) if not reason]


def sit(run: Run, images: int) -> Exam:
    """So many images of test, chosen by chance, with what the network says of them as they are."""
    n, seed, batch_size = len(run.source.splits["test"]), run.cfg["seed"], run.loaders.batch_size
    only = sorted(rng.permutation(n, seed, "robustness")[:images].tolist())
    batches = list(run.loaders.loader("test", only=only, shared=False))
    seen, target, index = (torch.cat([batch[key] for batch in batches]) for key in ("image", "target", "index"))
    where = hardware.device(dict(run.cfg))
    network = run.load().eval().requires_grad_(False).to(where)
    saved = calibration(run)

    def shipped(some: torch.Tensor) -> torch.Tensor:
        return run.decisions.scaled(saved, network(some).float())

    headline = f"test/{run.task.monitor.removeprefix('val/')}"

    @torch.no_grad()
    def logits(some: torch.Tensor) -> torch.Tensor:
        parts = (part.contiguous(memory_format=torch.channels_last) for part in some.split(batch_size))
        return torch.cat([shipped(part.to(where)).cpu() for part in parts])

    def error(found: torch.Tensor) -> float:
        score = measure(run, "test", found, target)[headline]
        return 1 - score if run.task.mode == "max" else score

    clean, known = logits(seen), run.loaders.augment
    return Exam(
        seen,
        target,
        index,
        seed,
        run.task,
        shipped,
        where,
        batch_size,
        logits,
        error,
        clean,
        getattr(known, "seen", ()),
    )
