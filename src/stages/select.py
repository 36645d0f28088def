"""Chooses the checkpoint and writes model/, all that predict needs."""

from __future__ import annotations

from src import checkpoint, world
from src.contracts import ConfigError, Run
from src.stages.predict import measure, predictions


def select(run: Run) -> None:
    chosen = run.home.path / "checkpoints" / f"{run.cfg['select']}.ckpt"
    if not chosen.exists():
        others = sorted(p.name for p in chosen.parent.glob("*.ckpt"))
        raise ConfigError(
            f"select={run.cfg['select']}: {chosen} was not written; there is {', '.join(others) or 'no checkpoint'}.\n"
            "`best` needs a validation in the fit. Set select=last, or remove what switches validation off."
        )
    found = checkpoint.load(chosen)
    network = run.network()
    prefix = "network."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in found["state_dict"].items() if k.startswith(prefix)})
    found_on_val = {}
    if run.cfg["trainer"]["limit_val_batches"] != 0:
        _, logits, target = predictions(run, network, "val")
        found_on_val = measure(run, "val", logits, target)
    if run.leader:
        run.home.update(
            chosen=chosen.name,
            weights=run.save(network, {"chosen": {"checkpoint": chosen.name, "epoch": found["epoch"]}}),
        )
        run.home.add_metrics(found_on_val | {"select/epoch": found["epoch"]})
    world.gather(None)  # the other ranks must not look for the model before it is there
