"""Which run folder this is: a new one, or one to go on with; and what may differ between the two halves of a run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src import checkpoint, folder, hardware, origin, replan, secret, world
from src.contracts import ConfigError, DataError

# What a resumed run may change: it does not touch the result.
FREE = (
    *("resume", "run_dir", "data.num_workers", "data.timeout"),
    *("callbacks.progress", "callbacks.last", "paths", "stages", "select"),
)
PATHS = (
    *("data.root", "data.table", "data.test_table", "model.weights", "init_from", "paths.logs", "paths.cache"),
    *("distill.teacher.folder", "distill.teacher.weights"),
)


def open_home(cfg: DictConfig) -> folder.RunFolder:
    """The run folder, the same on all ranks; new ones are made by rank 0."""
    absolute(cfg)
    if cfg.resume == "auto" and world.by_srun() and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise ConfigError(
            "resume=auto under srun: its processes cannot tell each other which run that is.\n"
            "Set resume to the folder of the run, or run_dir for a run that goes on by itself."
        )
    if world.rank() != 0:
        path = world.share("run_dir") or (cfg.resume != "auto" and cfg.resume) or cfg.run_dir
        if path is None:
            raise ConfigError("This is not rank 0, and rank 0 has not said where the run folder is. Set run_dir.")
        return folder.RunFolder(Path(path).absolute())
    wanted = Path(cfg.run_dir or Path(cfg.paths.logs) / cfg.name).absolute()
    new = [place for place in (wanted, *wanted.parents) if not os.path.exists(place)]
    path = _choose(cfg)
    world.share("run_dir", str(path))
    there = (path == wanted and not new) or (path / "config.yaml").exists()
    return folder.RunFolder(path, made=() if there else tuple(dict.fromkeys((path, *new))))


def absolute(cfg: DictConfig) -> DictConfig:
    """Paths as they are from everywhere: a run may be resumed from elsewhere."""
    for key in PATHS:
        given = OmegaConf.select(cfg, key, throw_on_missing=False)
        if given and Path(given).expanduser().exists():
            OmegaConf.update(cfg, key, str(Path(given).expanduser().absolute()))
    return cfg


def _choose(cfg: DictConfig) -> Path:
    logs = Path(cfg.paths.logs).absolute()
    if cfg.resume == "auto":
        found = unfinished(logs / cfg.name)
        print(f"resume=auto: {found or f'no unfinished run in {logs / cfg.name}; a new one starts'}")
        return found or folder.create(logs, cfg.name)
    if cfg.resume:
        path = Path(cfg.resume).absolute()
        if not (path / "config.yaml").is_file():
            newest = unfinished(logs / cfg.name) or "none is here"
            raise ConfigError(
                f"resume={cfg.resume}: that is no run folder (no config.yaml).\n"
                f"The newest unfinished run of {logs / cfg.name}: {newest}. "
                "Set resume to a folder that a run printed, or resume=auto."
            )
        return path
    return Path(cfg.run_dir).absolute() if cfg.run_dir else folder.create(logs, cfg.name)


def unfinished(runs: Path) -> Path | None:
    """The newest run folder here that has trained, is not finished, and in which nobody works."""
    places = "*/checkpoints/last*.ckpt", f"*/{folder.CONTEST}/*/checkpoints/last*.ckpt"
    folders = {runs / p.relative_to(runs).parts[0] for place in places for p in runs.glob(place)}
    newest = sorted(folders, key=lambda p: p.name, reverse=True)
    found = (folder.RunFolder(path) for path in newest)
    return next((run.path for run in found if run.state().get("state") != "finished" and not run.held()), None)


def discard(home: folder.RunFolder) -> None:
    """Removes a folder that this process made and in which nothing was trained or solved, and those above it that it
    made for it and that are empty: a mistake leaves nothing behind."""
    if home.made and not (any(home.path.rglob("checkpoints")) or (home.path / "model").exists()):
        shutil.rmtree(home.path, ignore_errors=True)
        with suppress(OSError):  # another run has come in
            for above in home.made[1:]:
                above.rmdir()


def decide(cfg: DictConfig, home: folder.RunFolder) -> dict[str, Any]:
    """Writes config.yaml for a new run; for a resumed one reads it, and refuses words that would change the result."""
    if home.config.is_file():
        saved = OmegaConf.create(home.words())
        _refuse_older(cfg, saved, home)
        rows = _differences(cfg, saved, home)
        ends = [row for row in rows if row[0] in replan.WORDS]
        _refuse([row for row in rows if row not in ends], home)
        if ends:
            asked, was = ({row[0]: row[i] for row in ends} for i in (1, 2))
            replan.replan(home, plain(saved), asked, was)
            _take(cfg, saved, replan.WORDS)
            folder.write(home.config, OmegaConf.to_yaml(saved))
            before = [word for word in home.state()["overrides"] if word.partition("=")[0] not in asked]
            home.update(overrides=[*before, *(f"{key}={value}" for key, value in asked.items())])
        _refuse_late(cfg, saved, home)
        _take(cfg, saved, FREE)
        home.update(resumed=[*home.state().get("resumed", []), time.strftime("%Y-%m-%dT%H:%M:%S%z")])
        words = secret.restored(plain(saved), typed())
        if set(words["stages"]) - set(home.state()["done"]):
            home.update(state="running")
        return words
    cfg = cfg.copy()
    cfg.run_dir, cfg.resume = str(home.path), None
    words = plain(cfg)
    home.update(
        state="running",
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        done=[stage for stage in words["stages"] if stage == "probe"],
        overrides=secret.words(typed()),
        seed=words["seed"],
        versions=origin.versions(),
        git=origin.git(),
        hardware=hardware.describe(),
        process=os.getpid(),
    )
    keep(cfg, home)  # last, since the other ranks begin when it is there
    return words


def keep(cfg: DictConfig, home: folder.RunFolder) -> None:
    """config.yaml: resolved, secrets masked."""
    folder.write(home.config, OmegaConf.to_yaml(OmegaConf.create(secret.masked(plain(cfg))), resolve=True))


def read(cfg: DictConfig, home: folder.RunFolder, seconds: float = 1800) -> dict[str, Any]:
    """What rank 0 decided, as soon as it is there (it may probe for hours); with the words of a resume that it took."""
    seconds = min(seconds, 300) if home.config.is_file() else seconds
    end = time.monotonic() + seconds
    while not _decided(cfg, home):
        if time.monotonic() > end and not home.held():
            what = "has not taken this end" if home.config.is_file() else "never wrote it"
            raise ConfigError(f"Rank {world.rank()} waited {seconds:.0f} s for {home.config}; rank 0 {what}.")
        time.sleep(0.1)
    saved = OmegaConf.create(home.words())
    _take(cfg, saved, (*FREE, *replan.WORDS))
    return secret.restored(plain(saved), typed())


def _decided(cfg: DictConfig, home: folder.RunFolder) -> bool:
    """Whether rank 0 has; of a run that is there, whether it has the end that is asked for, since a finished one would
    seem to have nothing left to do."""
    if not home.config.is_file():
        return False
    saved, said = OmegaConf.create(home.words()), {word.partition("=")[0] for word in typed()}
    return all(OmegaConf.select(saved, key) == OmegaConf.select(cfg, key) for key in said & {*replan.WORDS})


@contextmanager
def follow(home: folder.RunFolder) -> Iterator[folder.RunFolder]:
    """The ranks that do not write take no lock."""
    yield home


def typed() -> list[str]:
    """The words of this command line, as Hydra understood them."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _differences(cfg: DictConfig, saved: DictConfig, home: folder.RunFolder) -> list[tuple[str, Any, Any]]:
    """(key, what is asked, what the run has) of the words that are not free."""
    rows = []
    for word in typed():
        if secret.words([word])[0] in home.state()["overrides"]:
            continue
        key = word.split("=", 1)[0].lstrip("+~").split("@")[0].replace("/", ".")
        if word.startswith("~") or key in ("debug", "experiment"):  # they change more than one key
            rows.append((word, "given", "not given"))
            continue
        if key.startswith(FREE) or key.startswith("hydra"):
            continue
        asked, was = OmegaConf.select(cfg, key), OmegaConf.select(saved, key)
        rows += list(_leaves(key, _container(asked), _container(was)))
    return rows


def _refuse_older(cfg: DictConfig, saved: DictConfig, home: folder.RunFolder) -> None:
    if lacking := sorted(set(map(str, cfg)) - set(map(str, saved))):
        raise ConfigError(
            f"resume={home.path}: an older version of this template began the run; its config.yaml knows no "
            f"{', '.join(lacking)}.\nGo on with that version (run.json names its commit), or start a new run from its "
            f"weights with init_from={home.path}."
        )


def _refuse_late(cfg: DictConfig, saved: DictConfig, home: folder.RunFolder) -> None:
    """A choice that was made, and a fit of which not all was decided, since there was to be none."""
    said, state = {word.partition("=")[0] for word in typed()}, home.state()
    if "select" in said and "select" in state["done"] and cfg.select != saved.select:
        raise ConfigError(
            f"resume={home.path} select={cfg.select}: this run has chosen already ({state.get('chosen')}).\n"
            "Leave select out; or resume it with another end of the fit, after which it chooses anew."
        )
    fits = {"fit", "find_lr"} & {*saved.stages}
    unanswered = {
        "recipe": saved.select == "probe" and "select=probe" not in state["overrides"],
        "trainer.auto_batch": saved.trainer.auto_batch and not fits,
        "trainer.compile": saved.trainer.compile == "auto",
    }
    if "stages" in said and "fit" in cfg.stages and "fit" not in saved.stages and any(unanswered.values()):
        word = next(word for word, left in unanswered.items() if left)
        raise ConfigError(
            f"resume={home.path} stages=[{','.join(cfg.stages)}]: this run was to have no fit, so {word} has decided "
            "nothing of one.\nStart a new run: what the probe has seen is kept in the cache."
        )


def _refuse(rows: list[tuple[str, Any, Any]], home: folder.RunFolder) -> None:
    if rows:
        lines = [f"  {key}: in the run {was!r}, asked {asked!r}" for key, asked, was in rows[:20]]
        raise ConfigError(
            f"resume={home.path} goes on with exactly the run that is there, and these words would change it:\n"
            + "\n".join(lines)
            + "\nLeave them out to resume; or start a new run from its weights with init_from="
            + str(home.path)
            + f".\nFree to change: {', '.join(FREE[2:])}; and the end of the fit: {', '.join(replan.WORDS)}."
        )


def _container(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


def _leaves(key: str, asked: Any, was: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(asked, dict) and isinstance(was, dict):
        for name in {**asked, **was}:
            yield from _leaves(f"{key}.{name}", asked.get(name), was.get(name))
    elif asked != was and not (isinstance(asked, str) and "${" in asked):
        yield key, asked, was


def _take(cfg: DictConfig, saved: DictConfig, keys: tuple[str, ...]) -> None:
    said = [word.split("=", 1)[0] for word in typed()]
    for key in said:
        if key.startswith(keys) and key not in ("resume", "run_dir"):
            OmegaConf.update(saved, key, OmegaConf.select(cfg, key))


def same_data(home: folder.RunFolder, found: str) -> None:
    """The data of a run are those that it began with: paths, labels, sizes, classes, splits."""
    was = home.state().get("data")
    if was is None and world.rank() == 0:
        home.update(data=found)
    elif was not in (None, found):
        raise DataError(
            f"resume={home.path}: the data are not those that the run began with "
            f"(fingerprint {found[:12]}… instead of {was[:12]}…): files, labels or the split have changed.\n"
            f"Put the data back, or start a new run from its weights with init_from={home.path}."
        )


def weights(init_from: str, classes: tuple[str, ...]) -> tuple[Path, bool]:
    """The file that init_from starts from, and whether its head is for the same classes."""
    model = folder.model_of("init_from", Path(init_from))
    return model / "weights.safetensors", folder.model_json(model)["classes"] == list(classes)


def step(home: folder.RunFolder) -> int:
    """The update at which the run goes on; 0 for a new one."""
    last = home.path / "checkpoints" / "last.ckpt"
    if not (last.exists() or checkpoint.previous(last).exists()):
        return 0
    return int(checkpoint.load(last)["global_step"])


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolved, as plain data."""
    found = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}
