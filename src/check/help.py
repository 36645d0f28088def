"""The page of --help: everything on it but the ten commands and the choice of keys is read from configs/."""

from __future__ import annotations

import shutil
import textwrap

from src.check import configs
from src.check.kinds import said

COMMANDS = {
    "python train.py": "the embedded default: real images and weights, no network",
    "python train.py data=folder data.root=DIR": "DIR/CLASS/*.jpg, or DIR/{train,val,test}/CLASS/*.jpg",
    "python train.py data=csv data.root=DIR data.table=labels.csv": "columns path, target and perhaps split",
    "python train.py model.name=resnet50.a1_in1k model.image_size=128": "any timm network",
    "python train.py model.name=resnet18 model.weights=FILE.safetensors": "your own weights",
    "python train.py finetune=llrd loss=focal optimizer=sgd scheduler=linear augment=trivial": "other recipes",
    "python train.py -m seed=0,1,2": "three runs, one after the other",
    "python train.py trainer=ddp trainer.devices=2 trainer.precision=bf16-mixed": "two GPUs",
    "python train.py resume=auto": "or resume=RUN_DIR: goes on exactly where a run stopped",
    "python train.py init_from=RUN_DIR data=folder data.root=DIR": "a new run from an old one's weights",
    "python train.py debug=fast": "does it run at all? a few batches of everything",
    "python train.py --cfg job": "every key with its value, and nothing is run",
}
KEYS = """
name seed data.batch_size data.num_workers data.val_size data.resize data.bad_images model.name model.pretrained
model.weights model.image_size model.in_chans optimizer.lr optimizer.weight_decay scheduler.warmup trainer.max_epochs
trainer.accelerator trainer.devices trainer.precision trainer.limit_train_batches stages select run_dir resume init_from
"""
ABOUT = """
Fine-tunes an image classifier on your pictures, with PyTorch Lightning and settings from configs/.
Each run gets a folder of its own, logs/NAME/DATE_TIME, which can be resumed and used to predict.
"""
CODES = "0 done   1 failed   2 usage or config   3 data   130 Ctrl-C   143 preempted"


def page() -> str:
    width = max(80, min(100, shutil.get_terminal_size().columns))
    return "\n".join(
        [
            *(line for text in ABOUT.strip().splitlines() for line in textwrap.wrap(text, width)),
            "",
            "usage: python train.py [GROUP=OPTION] [KEY=VALUE] ...      several runs: -m KEY=A,B,C",
            "",
            "Groups (* is chosen by default; where there are several: 'logger=[csv,wandb]')",
            *(line for group in configs.groups() for line in _group(group, width)),
            "",
            "Keys, with the defaults; all of them: python train.py --cfg job",
            *(line for key in KEYS.split() for line in _key(key, width)),
            "",
            "Commands",
            *(line for command, why in COMMANDS.items() for line in _command(command, why, width)),
            "",
            f"Exit codes: {CODES}",
            "Hydra's own flags (-m, --cfg, --info, tab completion): python train.py --hydra-help",
        ]
    )


def _group(group: str, width: int) -> list[str]:
    chosen = configs.listed(configs.defaults().get(group))
    words = "  ".join(f"*{option}" if option in chosen else option for option in configs.groups()[group])
    return textwrap.wrap(words, width, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14)


def _key(key: str, width: int) -> list[str]:
    word = f"  {key}={said(configs.lookup(configs.compose({})[0], key))}"
    return textwrap.wrap(f"{word:<37} {configs.comment(key)}", width, subsequent_indent=" " * 38)


def _command(command: str, why: str, width: int) -> list[str]:
    line = f"  {command}"
    return [line, f"      {why}"] if len(line) > 44 or 46 + len(why) > width else [f"{line:<46}{why}"]
