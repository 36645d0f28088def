"""Chooses the model on val, among all that the run has made, and writes model/, all that predict needs."""

from __future__ import annotations

from safetensors.torch import save

from src import folder, world
from src.contracts import Affine, ConfigError, Run
from src.facts import BESIDE
from src.stages import doubts, probe
from src.stages.candidates import Candidate, beside, candidates, epoch, file_of, parts, restored
from src.stages.predict import groups, measure, table, tuned
from src.stats import gain, metric

MANY = 500  # images a class from which the head that was trained knows something that the closing head does not, as it
# does where rare classes count as much as others (src/tasks/heads.py: `close`). Raced at 307: level after 8 epochs, and
# after one, on a small budget, the closing head alone is ahead (83.6 to 80.7 % of val)
HELD_OUT = "held_out.safetensors"  # what was said of val, before the chosen model learns val, too


def select(run: Run) -> None:
    found = candidates(run, names(run))
    if not found:
        raise ConfigError(
            "select: there is no model to choose: nothing was fitted, or solved by a probe.\nAdd fit to the stages."
        )
    chosen = choose(run, found)
    head = _head(run, chosen)
    if run.leader:
        if run.task.tune and len(chosen.target):
            run.home.update(tuned=run.task.tune(chosen.logits, chosen.target))
        _ship(run, chosen, head)
        if len(chosen.target):
            run.home.add_metrics(measure(run, "val", chosen.logits, chosen.target))
            if not run.task.dense:
                held = {name: getattr(chosen, name).contiguous() for name in ("logits", "target", "index")}
                folder.write(run.home.path / HELD_OUT, save(held))
                said = table(run, "val", chosen.index, chosen.logits)
                folder.write(run.home.path / "predictions_val.csv", said)
        if run.cfg["recipe"] != "off" or run.cfg["select"] == "auto":
            _tell(run, found, chosen)
    world.gather(None)  # the other ranks must not look for the model before it is there


def names(run: Run) -> list[str]:
    """The candidates, the likeliest first. Mirrored ones come before their like: they are seldom worse."""
    asked = str(run.cfg["select"])
    if asked != "auto":
        return [asked]
    alone = run.audit.each <= MANY and not run.task.by_class
    closed = ["+closing", "+blend"] if alone else ["+blend", "+closing"]
    attacked = not run.cfg["adversary"]["_target_"].endswith(".none")  # a head solved on images as they are undoes it
    solved = run.task.close and not attacked and _linear(run)
    heads = [head for head in closed if solved and (run.task.mix or head != "+blend")]
    order = [*(f"ema{head}" for head in heads), "ema", "last", "best"]
    if run.home.state().get("rival"):
        order = [*(f"soup{head}" for head in heads or [""]), *order]
        order.insert(order.index("ema") + (not heads), "rival+closing" if heads else "rival")
    known = probe.there(run.home) and not attacked
    order += ["probe"] if known else []
    mirror = (True, False) if run.cfg["data"]["flip"] else (False,)
    found = [name + ("+mirror" if both else "") for name in order for both in mirror]
    moved = not run.cfg["finetune"]["_target_"].endswith(".Head")  # or else the frozen backbone is the same one
    few = known and moved and heads and beside(run.task) and run.audit.each < BESIDE
    return [f"{order[0].partition('+')[0]}+frozen", *found] if few else found


def _linear(run: Run) -> bool:
    """Whether what was trained can be mixed with a head that is solved."""
    found = run.cfg["model"].get("head", "linear") == "linear" or run.network().answers() is not None
    if not found and run.leader:
        print(f"select: no closing heads, since model.head={run.cfg['model']['head']} is not linear")
    return found


def choose(run: Run, found: list[Candidate]) -> Candidate:
    """The first, unless a later one is better on val by more than three standard errors of their paired difference: the
    best of a dozen on a small val is often only the luckiest. Raced over 28 fits of 5 to 180 images a class, mean test
    accuracy: the best on val 83.9, one standard error 84.1, two 84.5, always the first 84.5. (Two have lost 5 points
    since, to a probe that was right on four more of 30 images.) Of fewer than ten, or ten groups, always the first."""
    chosen = found[0]
    if (run.task.scores is None and run.task.score is None) or len(chosen.target) < 2:
        return chosen
    alike = groups(run, "val", chosen.index)
    for other in found[1:]:
        better, error = gain(run.task, other.logits, chosen.logits, chosen.target, alike)
        if better > 3 * error:
            chosen = other
    return chosen


def _head(run: Run, chosen: Candidate) -> Affine | None:
    """The head that is shipped, solved again where val is learnt; on every rank, since each reads some of the images.
    None: as the network has it."""
    if run.cfg["refit"] == "none" or not len(chosen.target):
        return chosen.head
    kept = doubts.right(run, chosen.logits, chosen.target)
    if run.leader and not kept.all():
        wrong = f"{int((~kept).sum())} of the {len(kept)} images of val"
        why = f"their labels are rather wrong than right ({doubts.listed(run, chosen.index[~kept])})"
        print(f"select: {wrong} are not learnt, now that it has chosen: {why}")
    return chosen.final(kept) if chosen.final else chosen.head


def _ship(run: Run, chosen: Candidate, head: Affine | None) -> None:
    name, kind, mirror = parts(chosen.name)
    network = restored(run, name)
    network.mirror = mirror
    network.keep(run.network().backbone if kind == "frozen" else None)
    if head:
        network.answer(*head, mirror=mirror)
    best = None if name == "probe" else epoch(file_of(run, name))
    found = {"candidate": chosen.name, "epoch": best, "solved_again": head is not chosen.head}
    sha256 = run.save(network, {"chosen": found, "tuned": tuned(run)})
    run.home.update(chosen=chosen.name, mixed=chosen.weights, weights=sha256)
    run.home.add_metrics({} if best is None else {"select/epoch": best})


def _tell(run: Run, found: list[Candidate], chosen: Candidate) -> None:
    """run.json, and recipe.md behind what was decided before the fit."""
    scores = {c.name: metric(run.task, c.logits, c.target) if len(c.target) else None for c in found}
    run.home.update(candidates=scores)
    file = run.home.path / "recipe.md"
    before = file.read_text(encoding="utf-8").partition("\n## Candidates")[0] if file.is_file() else ""
    known = run.task.scores is not None or run.task.score is not None
    why = "left only for one that is better by three standard errors" if known else "taken: no error of this is known"
    why = f" The first is {why}." if len(found) > 1 else ""
    lines = [
        "",
        "## Candidates",
        "",
        f"In the order of preference; {run.task.monitor} of {len(chosen.target)} images.{why}",
        "",
    ]
    lines += [f"| candidate | {run.task.monitor} |  |", "|---|---|---|"]
    for name, score in scores.items():
        shown = "" if score is None else f"{score:.4f}"
        lines.append(f"| {name} | {shown} | {'chosen' if name == chosen.name else ''} |")
    folder.write(file, before + "\n".join(lines) + "\n")
