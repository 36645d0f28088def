"""Accuracy on the worst images nearby: PGD, then an ensemble that needs no tuning, and signs that gradients are hidden.

The ensemble is APGD with two losses and, without gradients, Square, as in AutoAttack (Croce & Hein 2020), of which the
targeted attacks are left out: an upper bound of robustness, less tight than AutoAttack's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from src import rng
from src.attacks import pgd, radius, start
from src.contracts import Exam, Task
from src.robustness.apgd import Loss, apgd, ce, dlr
from src.robustness.square import margin, square

LARGE = {"linf": 0.5, "l2": 0.5}  # of the whole range: an attack so far must succeed; l2: a pixel, on average
LEFT = 0.05  # accuracy below which nothing is left
FEW = 100  # images that are enough to see it


class Attacks:
    """eps: distances, in images from 0 to 1, by `norm`. steps, restarts: of PGD; iterations: of each APGD; queries: of
    Square, which there is for linf. Only images that are right as they are, and not fooled yet, are attacked."""

    def __init__(
        self,
        images: int = 200,
        eps: Sequence[float | str] = ("1/255", "4/255"),
        norm: str = "linf",
        steps: int = 20,
        restarts: int = 1,
        iterations: int = 30,
        queries: int = 300,
    ):
        self.images, self.norm, self.steps, self.restarts = images, norm, steps, restarts
        self.eps = {str(one): radius("robustness.eps", one, norm) for one in eps}
        self.iterations, self.queries = iterations, queries

    def cannot(self, task: Task, channels: int) -> str:
        return "" if task.target == "class" else f"an attack turns one class into another, and they are {task.target}"

    def passes(self) -> int:
        """At the most; a gradient takes as long as three passes."""
        each = 3 * (self.steps * self.restarts + 2 * self.iterations) + self.queries * (self.norm == "linf") + 1
        return len(self.eps) * each + 3 * self.steps

    def __call__(self, exam: Exam) -> dict[str, Any]:
        right = exam.clean.argmax(1) == exam.target
        told: dict[str, Any] = {"norm": self.norm, "clean": _part(right), "eps": {}, "hidden": []}
        for name, eps in self.eps.items():
            told["eps"][name] = found = self._at(exam, eps, right)
            told["hidden"] += [f"eps {name}: {sign}" for sign in _signs(found, len(right))]
        told["hidden"] += self._beyond(exam, right)
        return {"attacks": told}

    def _at(self, exam: Exam, eps: float, right: torch.Tensor) -> dict[str, float]:
        """The accuracy after each: noise and pgd alone, the others behind all that stand before them."""
        noise = self._left(exam, right, lambda v, draw: v.fooled(start(v.image, eps, self.norm, draw)), "noise")
        left = right
        for i in range(self.restarts):
            left = self._left(exam, left, lambda v, draw: self._pgd(v, eps, draw), f"pgd {i}")
        found = {"noise": _part(noise), "pgd": _part(left)}
        losses: dict[str, Loss] = {"apgd_ce": ce, **({"apgd_dlr": dlr} if exam.clean.shape[1] > 2 else {})}
        for name, loss in losses.items():
            words = loss, eps, self.norm, self.iterations
            left = self._left(exam, left, lambda v, draw, w=words: apgd(v.look, v.image, *w, draw), name)
            found[name] = _part(left)
        if self.norm == "linf":
            left = self._left(exam, left, lambda v, draw: square(v.margin, v.image, eps, self.queries, draw), "square")
            found["square"] = _part(left)
        return {**found, "worst": _part(left)}

    def _pgd(self, v: View, eps: float, draw: torch.Generator) -> torch.Tensor:
        step = 2.5 * eps / self.steps
        return v.fooled(pgd(v.image, lambda x: v.look(x, ce)[1], eps, self.norm, self.steps, step, draw))

    def _left(
        self, exam: Exam, right: torch.Tensor, attack: Callable[[View, torch.Generator], torch.Tensor], name: str
    ) -> torch.Tensor:
        """right (N,) -> those of it that the attack does not fool."""
        right = right.clone()
        for chosen in torch.nonzero(right)[:, 0].split(exam.batch_size) if right.any() else ():
            view = View(exam, chosen)
            draw = torch.Generator().manual_seed(rng.key(exam.seed, name, int(exam.index[chosen[0]])))
            right[chosen] = ~attack(view, draw).cpu()
        return right

    def _beyond(self, exam: Exam, right: torch.Tensor) -> Iterator[str]:
        """Signs that the network has a hand in it, not the distance (Athalye et al. 2018, section 3.1)."""
        some = right & (right.cumsum(0) <= FEW)
        if not some.any():
            return
        far = LARGE[self.norm] * (1 if self.norm == "linf" else math.sqrt(exam.images[0].numel()))
        left = self._left(exam, some, lambda v, draw: self._pgd(v, far, draw), "far")
        if (kept := float(left.sum() / some.sum())) > LEFT:
            yield f"PGD of eps {far:.3g}, which may change everything, leaves {100 * kept:.0f} % right"
        if not torch.equal(exam.logits(exam.images[:8]), exam.logits(exam.images[:8])):
            yield "the network answers by chance: a stochastic layer is no defence, and is not counted as one"

    def lines(self, found: dict[str, Any]) -> list[str]:
        told = found["attacks"]
        rows = [f"attacks ({told['norm']}): accuracy {100 * told['clean']:.1f} % on clean images"]
        for eps, values in told["eps"].items():
            rows.append(f"  eps {eps:8} " + "  ".join(f"{name} {100 * v:.1f}" for name, v in values.items()))
        if told["hidden"]:
            rows += ["  NOT TO BE TRUSTED: there are signs that gradients are hidden rather than nothing being there:"]
            rows += [f"    {sign}" for sign in told["hidden"]]
        return rows


class View:
    """Some images of an exam, as the attacks see the network."""

    def __init__(self, exam: Exam, chosen: torch.Tensor):
        image = exam.images[chosen].to(exam.device)
        self.network, self.target = exam.network, exam.target[chosen].to(exam.device)
        self.image = image.float() / 255 if image.dtype == torch.uint8 else image

    def look(self, x: torch.Tensor, loss: Loss) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """-> (the loss of each, its gradient, which are fooled)"""
        x = x.detach().requires_grad_()
        logits = self.network(x).float()
        value = loss(logits, self.target)
        (slope,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), slope, logits.argmax(1) != self.target

    @torch.no_grad()
    def margin(self, x: torch.Tensor) -> torch.Tensor:
        return margin(self.network(x).float(), self.target)

    def fooled(self, x: torch.Tensor) -> torch.Tensor:
        return self.margin(x) < 0


def _signs(found: dict[str, float], n: int) -> Iterator[str]:
    if found["noise"] < found["pgd"]:
        yield f"noise fools more than PGD (accuracy {100 * found['noise']:.1f} and {100 * found['pgd']:.1f} %)"
    before = found.get("apgd_dlr", found["apgd_ce"])
    lost = round((before - found.get("square", before)) * n)
    if lost >= max(2, 0.01 * n):
        yield f"Square, without gradients, fools {lost} images that no gradient did"


def _part(right: torch.Tensor) -> float:
    return float(right.float().mean())
