"""Distillation: beside its targets, a network learns what another one says of the same images (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, log_softmax, mse_loss, softmax

from src.contracts import ConfigError, Task, Teacher

Far = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (logits, the teacher's) -> scalar, 0 where both are equal


class Distilled(nn.Module):
    """(logits, batch with image) -> (1 - alpha) loss + alpha T^2 KL(teacher || network), both at temperature T: its
    gradient keeps its size whatever T is (arXiv:1503.02531, section 2). Labels: the same of each, on its own; numbers:
    the mean squared distance of the answers, without their unit.

    The teacher, in eval mode, sees what the network sees, after augmentation and mixing ("function matching", Beyer et
    al. 2022, arXiv:2106.05237, where answers that were computed once on other crops overfit: so none are kept), made as
    large as it was trained on. It is no part of this module: no optimizer, checkpoint or other rank sees its weights.
    """

    def __init__(
        self,
        teacher: Teacher,
        alpha: float = 0.9,
        temperature: float | None = None,
        *,
        loss: nn.Module,
        task: Task,
        kind: str,
        classes: Sequence[str],
        channels: int,
        standard: Callable[[torch.Tensor], torch.Tensor],
    ):
        """kind: `_target_` of the task. standard: outputs -> the same without their unit."""
        super().__init__()
        if not 0 < alpha <= 1:
            raise ConfigError(
                f"distill.alpha={alpha} is outside 0 < alpha <= 1.\nTo learn the targets alone set distill=none."
            )
        if temperature is not None and not temperature > 0:
            raise ConfigError(f"distill.temperature={temperature} is no temperature.\nSet it above 0, such as 2.")
        _refuse(teacher, temperature, task, kind, list(classes), channels)
        self.base, self.alpha, self.standard = loss, alpha, standard
        self.heat = 2.0 if temperature is None else temperature
        self.far: Far = {"class": self._class, "labels": self._labels, "numbers": self._numbers}[task.target]
        self.teacher = (teacher,)  # in a tuple, where torch looks for no parameters
        self.device = torch.device("cpu")  # where the teacher is
        self.notes = (*getattr(loss, "notes", ()), *teacher.notes)
        for name in ("takes", "soft", "supposes", "rate"):  # what others ask of a loss
            if hasattr(loss, name):
                setattr(self, name, getattr(loss, name))

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        said = self.standard(self._said(batch["image"])).to(logits.dtype)
        return (1 - self.alpha) * self.base(logits, batch) + self.alpha * self.far(logits, said)

    @torch.no_grad()
    def _said(self, image: torch.Tensor) -> torch.Tensor:
        (teacher,) = self.teacher
        network: Any = teacher.network.eval()
        size = teacher.spec.size
        if self.device != image.device:
            network.to(image.device)
            network.suit(image.device.type)
            self.device = image.device
        if image.shape[-2:] != size:
            image = image.float() / 255 if image.dtype == torch.uint8 else image
            image = interpolate(image, size, mode="bilinear", antialias=True).clamp(0, 1)
        return network(image)

    def _class(self, logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        p, log_p = softmax(said.float() / self.heat, 1), log_softmax(said.float() / self.heat, 1)
        return self.heat**2 * (p * (log_p - log_softmax(logits.float() / self.heat, 1))).sum(1).mean()

    def _labels(self, logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        cool, p = said.float() / self.heat, (said.float() / self.heat).sigmoid()
        own = binary_cross_entropy_with_logits(logits.float() / self.heat, p)
        return self.heat**2 * (own - binary_cross_entropy_with_logits(cool, p))

    def _numbers(self, logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        return mse_loss(logits.float(), said.float())


def _refuse(
    teacher: Teacher, temperature: float | None, task: Task, kind: str, classes: list[str], channels: int
) -> None:
    """Raises where the teacher speaks of something else, or what it says cannot be learnt."""
    own, asked = kind.rpartition(".")[2], f"distill of {teacher.name}"
    if task.target not in ("class", "labels", "numbers") or task.spread is not None:
        what = "a spread beside each number" if task.spread is not None else task.target
        raise ConfigError(
            f"{asked}: the outputs of task={own} are for {what}; of a teacher, classes, labels and numbers are "
            "learnt.\nSet distill=none."
        )
    if teacher.task not in (None, kind):
        raise ConfigError(
            f"{asked}: it was trained with task={str(teacher.task).rpartition('.')[2]}, and this is task={own}.\n"
            "Set distill.teacher to one of the same task."
        )
    if teacher.classes is not None and list(teacher.classes) != classes:
        other = [name for name in (*teacher.classes, *classes) if (name in teacher.classes) != (name in classes)]
        differ = f"such as {other[0]!r}" if other else "in their order"
        raise ConfigError(
            f"{asked}: its {len(teacher.classes)} classes are not the {len(classes)} of these images; they differ, "
            f"{differ}.\nSet distill.teacher to a network that was trained on the same classes."
        )
    if teacher.classes is None and teacher.outputs != len(classes):
        raise ConfigError(
            f"{asked}: it has {teacher.outputs} outputs, and there are {len(classes)} classes.\n"
            "Fine-tune it on these images first (a run of its own), and set distill=run distill.teacher.folder=RUN_DIR."
        )
    if teacher.spec.channels != channels:
        raise ConfigError(
            f"{asked}: it sees {teacher.spec.channels} channels, and this network is shown {channels}.\n"
            f"Set model.in_chans={teacher.spec.channels}, or another teacher."
        )
    if task.target == "numbers" and temperature is not None:
        raise ConfigError(
            f"distill.temperature={temperature}: numbers are compared as they are, at no temperature.\nLeave it out."
        )
