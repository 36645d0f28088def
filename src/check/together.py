"""What is wrong between keys that are each right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from src.check.configs import MISSING, lookup
from src.check.kinds import number, real, said, whole


def _heads(heads: dict[str, Any], losses: list[str]) -> Iterator[str]:
    from src.mixed_labels import faults, nearest, words

    asked = f"task.heads={said(heads)}"
    found = list(faults(heads))
    yield from (f"{asked}\n  {fault}" for fault in found)
    for name, told in heads.items() if losses and not found else ():
        if (loss := words(told).get("loss")) and loss not in losses:
            yield f"{asked}\n  task.heads: {name}: no loss {loss!r}. {nearest(loss, losses)}"


NEED_MODEL = ("calibrate", "refit", "test", "robustness")  # stages that work with the model that select has written
Of = Callable[[str], Any]  # a dotted key -> its value, None where there is none


def together(cfg: Mapping[str, Any]) -> Iterator[str]:
    def of(key: str) -> Any:
        found = lookup(cfg, key)
        return None if found is MISSING else found

    for part in (_data, _choice, _stages, _model, _training):
        yield from part(of)


def _data(of: Of) -> Iterator[str]:
    val, test = of("data.val_size"), of("data.test_size")
    part, place = number("0 <= x").holds, whole("0 <= x").holds
    if part(val) and part(test) and val + test >= 1:
        yield (
            f"data.val_size={val} data.test_size={test}\n  Together they leave nothing to train on. "
            "Set them to parts that add up to less than 1."
        )
    fold, folds = of("data.fold"), of("data.folds")
    if place(fold) and place(folds) and fold >= folds:
        yield f"data.fold={fold} data.folds={folds}\n  Folds are counted from 0: set data.fold to 0 … {folds - 1}."
    if folds not in (None, 5) and fold is None:
        yield f"data.folds={folds}\n  It is for data.fold, which is not given. Set data.fold, or leave data.folds out."
    if of("resume") and of("init_from"):
        yield (
            f"resume={of('resume')} init_from={of('init_from')}\n  resume goes on with a run and its weights; "
            "init_from starts a new run from weights. Leave one out."
        )
    home, run = of("resume"), of("run_dir")
    if home and run and (home == "auto" or Path(str(home)).absolute() != Path(str(run)).absolute()):
        yield (
            f"resume={home} run_dir={run}\n  Each names a run folder, and it goes on in one. Leave run_dir out; a run "
            "that is to begin in run_dir, and to go on there, needs no resume."
        )


def unread(key: str, value: Any, config: Mapping[str, Any], augment: str) -> str:
    """Why nothing comes of a word of the data that only an augment can obey, or ''."""
    if key not in ("data.flip", "data.crop_scale") or not value or value == lookup(config, key):
        return ""
    node = config.get("augment") or {}
    if any(leaf == f"${{{key}}}" for leaf in node.values()):
        return ""
    return f"augment={augment} does not do it. Choose another (augment=light crops and mirrors), or leave it out."


def _choice(of: Of) -> Iterator[str]:
    if of("model.candidates") and of("recipe") in ("off", "fast"):
        yield (
            f"model.candidates with recipe={of('recipe')}\n  It is the probe that ranks them. Leave recipe out, or set "
            "model.name and model.weights."
        )
    if of("init_from") and of("model.weights"):
        yield (
            f"init_from={of('init_from')} model.weights={of('model.weights')}\n  The run has weights of its own. "
            "Leave out one of the two."
        )
    yield from _top(of)
    if str(of("select")).startswith(("soup", "rival")) and len(of("sweep")) < 2 and of("recipe") != "best":
        yield (f"select={of('select')}\n  It takes two fits. Add recipe=best, or sweep=[1,0.5].")
    if (len(of("sweep")) > 1 or of("recipe") == "best") and of("trainer.limit_val_batches") == 0:
        asked = "recipe=best" if of("recipe") == "best" else f"sweep={said(of('sweep'))}"
        yield f"{asked} trainer.limit_val_batches=0\n  It is val that compares the rates. Leave out one of the two."
    if of("budget") and of("recipe") == "off":
        yield (
            f"budget={of('budget')} recipe=off\n  A budget is planned by the recipe. Leave recipe=off out, or set "
            "callbacks.deadline.seconds for the fit alone."
        )
    fits = of("recipe") != "probe" and "fit" in (of("stages") or ())
    if of("budget") and fits and of("callbacks.deadline") is None:
        yield (
            f"budget={of('budget')} without callbacks.deadline\n  It is that callback that ends the fit in time. "
            "Set callbacks=[default], or leave budget out."
        )
    for key in ("data.progressive", "mix.off_epochs"):
        if of("trainer.max_time") and of(key):
            yield (
                f"trainer.max_time={of('trainer.max_time')} {key}={of(key)}\n  It cuts the schedule short, perhaps "
                "before the end that this waits for. Use budget=10m or callbacks.deadline.seconds=600: they hurry it."
            )
    if of("budget") and (test := str(of("robustness._target_")).rpartition(".")[2].lower()) != "none":
        yield (
            f"budget={of('budget')} robustness={test}\n  Its time is not planned. Leave robustness out; "
            "`python -m src.evaluate RUN_DIR robustness=…` measures it later."
        )
    if of("augment.policy") == "auto" and of("recipe") == "off":
        yield ("augment=auto recipe=off\n  It is the recipe that decides. Leave out recipe=off, or name an augment.")
    if (of("calibrate.decision") == "cost") != (of("calibrate.cost") is not None):
        yield (
            f"calibrate.decision={of('calibrate.decision')} calibrate.cost={said(of('calibrate.cost'))}\n  They go "
            "together. Set calibrate.cost to a row of numbers for each class, and calibrate.decision=cost."
        )
    head = {key: of(f"probe.{key}") for key in ("head", "strength", "view")}
    if missing := [f"probe.{key}" for key, value in head.items() if value is None and any(head.values())]:
        yield (
            f"probe={{{', '.join(f'{k}: {said(v)}' for k, v in head.items())}}}\n  One head is named by all three. "
            f"Set {', '.join(missing)}, too."
        )
    if any(head.values()) and of("recipe") in ("off", "fast"):
        yield f"probe.head={head['head']} recipe={of('recipe')}\n  There is no probe then. Leave out one of the two."
    if isinstance(heads := of("task.heads"), dict):
        yield from _heads(heads, list(of("loss.losses") or ()))


def _stages(of: Of) -> Iterator[str]:
    goes_on = of("resume") or "${" in str(of("run_dir")) or Path(str(of("run_dir"))).is_dir()
    later = [stage for stage in of("stages") or () if stage in NEED_MODEL]
    if later and "select" not in of("stages") and not goes_on:
        yield (
            f"stages={said(of('stages'))}\n  There is no model for {', '.join(later)}: it is select that writes "
            "one. Add select, or leave these out."
        )


def _top(of: Of) -> Iterator[str]:
    """Several networks are fitted side by side: what that cannot be without."""
    asked, top, found = f"model.top={of('model.top')}", of("model.top"), of("model.candidates")
    if not whole("2 <= x").holds(top):
        return
    many = len(set(map(str, found))) if isinstance(found, list | dict) else 0
    if top > many:
        yield f"{asked}\n  model.candidates names {many} of them. Name as many, or leave model.top out."
    if of("recipe") == "probe":
        yield f"{asked} recipe=probe\n  Nothing is fine-tuned then. Leave out one of the two."
    elif "fit" not in (stages := of("stages") or ()) and stages != ["probe"]:
        yield f"{asked} stages={said(stages)}\n  It is fits that are compared. Add fit, or leave model.top out."
    if str(of("select")).startswith(("soup", "rival")):
        yield f"{asked} select={of('select')}\n  No network has two fits when they are compared. Leave out one of them."
    if of("trainer.limit_val_batches") == 0:
        yield f"{asked} trainer.limit_val_batches=0\n  It is val that chooses. Leave out one of the two."
    if of("trainer.max_epochs") in (None, -1):
        yield (
            f"{asked} trainer.max_epochs={said(of('trainer.max_epochs'))}\n  Fits are compared after a part of their "
            "epochs. Set trainer.max_epochs, or leave it to the recipe."
        )


def _model(of: Of) -> Iterator[str]:
    head = of("model.head") or "linear"
    if of("start") == "probe" and head not in ("linear", "stages"):
        yield (
            f"start=probe model.head={head}\n  The probe solves a linear head. "
            "Leave start out, or set model.head=linear or stages."
        )
    if head in ("mlp", "cosine") and any(part in str(of("select")) for part in ("+closing", "+blend", "+frozen")):
        yield (
            f"select={of('select')} model.head={head}\n  Only a linear head can be mixed with one that is solved. "
            "Set select=auto, ema, best or last, or model.head=bnneck or linear."
        )
    if of("model.head_scale") is not None and head != "cosine":
        yield f"model.head_scale={of('model.head_scale')} model.head={head}\n  Only model.head=cosine has a scale."


def _training(of: Of) -> Iterator[str]:
    if of("trainer.max_epochs") in (None, -1) and of("trainer.max_steps") in (None, -1):
        yield (
            f"trainer.max_epochs={said(of('trainer.max_epochs'))}\n  A run without an end has no schedule. "
            "Set trainer.max_steps, or trainer.max_epochs to the number of epochs."
        )
    ratio = of("trainer.gradient_clip_val")
    if of("trainer.gradient_clip_algorithm") == "agc" and not (real(ratio) and 0 < ratio < 1):
        yield (
            f"trainer.gradient_clip_algorithm=agc trainer.gradient_clip_val={said(ratio)}\n  Here it is the largest "
            "ratio of a unit's gradient to its weights, and this clips nothing.\n  "
            "Set trainer.gradient_clip_val to 0.01 … 0.16."
        )
    if of("adversary.eps") is not None and str(of("trainer.precision")) in ("16-mixed", "16"):
        yield (
            f"adversary.eps={of('adversary.eps')} trainer.precision={of('trainer.precision')}\n  Small gradients of "
            "images would become 0: nothing scales them. Set trainer.precision=bf16-mixed or 32-true, or "
            "adversary=none."
        )
    adds = f"trainer.accumulate_grad_batches={of('trainer.accumulate_grad_batches')}"
    if of("trainer.effective_batch") is not None:
        if of("trainer.accumulate_grad_batches") != 1:
            yield (
                f"trainer.effective_batch={of('trainer.effective_batch')} {adds}\n  The one follows from the other and "
                "data.batch_size. Leave out one of the two."
            )
        adds = f"trainer.effective_batch={of('trainer.effective_batch')}"
    if of("model.grad_checkpointing") and of("trainer.compile"):
        yield (
            f"model.grad_checkpointing=true trainer.compile={said(of('trainer.compile'))}\n  A compiled network "
            "decides itself what it computes again. Leave out one of the two."
        )
    if str(of("optimizer._target_")).endswith(".SAM"):
        if of("trainer.accumulate_grad_batches") != 1 or of("trainer.effective_batch") or of("trainer.auto_batch"):
            adds = "trainer.auto_batch=true" if of("trainer.auto_batch") else adds
            yield (
                f"optimizer=sam {adds}\n  Its second look would be at the last of the batches that are added up. "
                "Leave out one of the two."
            )
        if str(of("trainer.precision")) in ("16-mixed", "16"):
            yield (
                "optimizer=sam trainer.precision=16-mixed\n  The scaler of its gradients knows of one pass a step, and "
                "SAM makes two. Set trainer.precision=bf16-mixed or 32-true, or another optimizer."
            )
