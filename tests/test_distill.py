"""Distillation: the formula of its paper, a teacher that sees the same batch and leaves no trace, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from src.contracts import ConfigError, InputSpec, Teacher
from src.distill.distilled import Distilled
from src.factory import make
from src.models.teachers import of_run
from tests.test_combined import built
from tests.yamls import node

SPEC = InputSpec((4, 4), 3, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
LOGITS, SAID = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0]]), torch.tensor([[1.0, 1.5, -0.5], [4.0, 0.0, -2.0]])
TARGETS = {
    "multiclass": torch.tensor([0, 2]),
    "multilabel": torch.tensor([[1.0, 0, 1], [0, 1, 0]]),
    "regression": torch.tensor([[1.0, 2, 3], [4, 5, 6]]),
}


class Says(nn.Module):
    """The same answers to every batch; it keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen, self.learning = image, self.training
        return SAID


def task_of(name: str):
    targets = tuple(map(tuple, TARGETS[name].tolist())) if name != "multiclass" else (0, 2)
    return make(node("task", name, **({"spread": None} if name == "regression" else {})))(
        classes=("a", "b", "c"), targets=targets
    )


def loss_of(name: str) -> nn.Module:
    return make({**node("loss", name), "_partial_": False})


def distilled(name: str = "multiclass", loss: str = "cross_entropy", teacher: nn.Module | None = None, **values):
    kind = node("task", name, **({"spread": None} if name == "regression" else {}))["_target_"]
    said = Teacher(teacher or Says(), 3, ("a", "b", "c"), kind, SPEC, "it")
    known = {"task": task_of(name), "kind": kind, "classes": ["a", "b", "c"], "channels": 3}
    return Distilled(said, loss=loss_of(loss), standard=lambda x: x, **{**known, **values})


def softmax(x):
    e = [np.exp(v) for v in x]
    return [v / sum(e) for v in e]


def by_hand(name: str, t: float) -> float:
    """The divergence, term by term."""
    total, rows = 0.0, list(zip(LOGITS.tolist(), SAID.tolist(), strict=True))
    for own, said in rows:
        if name == "regression":
            total += sum((a - b) ** 2 for a, b in zip(own, said, strict=True)) / 3
        elif name == "multiclass":
            q, p = softmax([v / t for v in own]), softmax([v / t for v in said])
            total += t**2 * sum(b * np.log(b / a) for a, b in zip(q, p, strict=True))
        else:
            for a, b in zip(own, said, strict=True):
                q, p = 1 / (1 + np.exp(-a / t)), 1 / (1 + np.exp(-b / t))
                total += t**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))) / 3
    return total / len(rows)


@pytest.mark.parametrize(
    ("name", "loss"), [("multiclass", "cross_entropy"), ("multilabel", "bce"), ("regression", "mse")]
)
@pytest.mark.parametrize(("alpha", "heat"), [(1.0, 1.0), (0.3, 4.0), (0.9, None)])
def test_the_loss_is_that_of_the_paper_beside_its_own(name, loss, alpha, heat):
    heat = None if name == "regression" else heat
    batch = {"image": torch.zeros(2, 3, 4, 4), "target": TARGETS[name]}
    own = float(loss_of(loss)(LOGITS, batch))
    found = float(distilled(name, loss, alpha=alpha, temperature=heat)(LOGITS, batch))
    assert found == pytest.approx((1 - alpha) * own + alpha * by_hand(name, heat or 2.0), rel=1e-5)


def test_the_size_of_the_gradient_does_not_go_with_the_temperature():
    sizes = []
    for heat in (20.0, 40.0):
        logits = LOGITS.clone().requires_grad_()
        batch = {"image": torch.zeros(2, 3, 4, 4), "target": TARGETS["multiclass"]}
        distilled(alpha=1.0, temperature=heat)(logits, batch).backward()
        sizes.append(float(logits.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_the_teacher_sees_the_batch_at_its_own_size_in_eval_mode_and_is_no_part_of_the_loss():
    teacher = Says()
    loss = distilled(teacher=teacher.train())
    loss.train()
    image = torch.arange(64, dtype=torch.uint8).view(8, 8).expand(2, 3, 8, 8) * 4
    loss(LOGITS, {"image": image, "target": TARGETS["multiclass"]})
    blocks = image.float().reshape(2, 3, 4, 2, 4, 2).mean((3, 5)) / 255
    assert not teacher.learning and teacher.seen.shape == (2, 3, 4, 4)
    torch.testing.assert_close(teacher.seen[..., 1:3, 1:3], blocks[..., 1:3, 1:3])  # of a slope, but at its edges
    loss(LOGITS, {"image": (small := image[..., :4, :4]), "target": TARGETS["multiclass"]})
    assert torch.equal(teacher.seen, small)
    assert not list(loss.parameters()) and not loss.state_dict()
    assert loss.soft and not hasattr(loss, "supposes")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"classes": ["a", "b", "d"]}, "such as 'c'"),
        ({"classes": ["a", "c", "b"]}, "in their order"),
        ({"kind": "src.tasks.ordinal.ordinal"}, "task=multiclass, and this is task=ordinal"),
        ({"channels": 1}, "3 channels.*1"),
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"task": make(node("task", "retrieval"))(classes=("a", "b", "c"), targets=(0, 1, 2))}, "are for identity"),
        ({"name": "regression", "loss": "mse", "temperature": 2.0}, "at no temperature"),
    ],
)  # fmt: skip
def test_a_teacher_of_something_else_is_refused(values, why):
    with pytest.raises(ConfigError, match=rf"(?is){why}.*\n.*(Set|Leave)"):
        distilled(**values)


def test_a_timm_file_teaches_with_its_classifier_and_one_without_is_refused(tmp_path):
    import timm

    whole = timm.create_model("test_resnet", num_classes=3).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    save_file({k: v for k, v in whole.state_dict().items() if not k.startswith("fc.")}, tmp_path / "body.safetensors")
    teacher = make(
        node("distill", "timm", teacher={"name": "test_resnet", "weights": str(tmp_path / "whole.safetensors")})[
            "teacher"
        ]
    )
    image = torch.rand(2, 3, *teacher.spec.size)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (teacher.spec.mean, teacher.spec.std))
    torch.testing.assert_close(teacher.network(image), whole((image - mean) / std), atol=1e-5, rtol=1e-5)
    assert teacher.outputs == 3 and "3 outputs are taken to be the classes" in teacher.notes[0]
    with pytest.raises(ConfigError, match="there is no classifier in it"):
        make(
            node("distill", "timm", teacher={"name": "test_resnet", "weights": str(tmp_path / "body.safetensors")})[
                "teacher"
            ]
        )
    known = {"task": task_of("multiclass"), "kind": "x", "classes": ["a", "b"], "channels": 3}
    with pytest.raises(ConfigError, match="it has 3 outputs, and there are 2 classes.\nFine-tune"):
        Distilled(teacher, loss=nn.Identity(), standard=lambda x: x, **known)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*in eval mode at the start")
def test_a_student_comes_nearer_to_its_teacher_which_stays_as_it_is(whole, shapes, tmp_path):
    said = (
        f"distill=run distill.teacher.folder={whole} distill.alpha=1 trainer.max_epochs=10 "
        "trainer.limit_train_batches=1.0 optimizer.lr=0.005 model.image_size=48"
    )
    r = built(said.split(), tmp_path, shapes)
    module = r.module(r.network())
    teacher = of_run(folder=str(whole)).network
    teacher.head.weight.mul_(30)  # one that is sure of something
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    image = next(iter(r.loaders.loader("train")))
    image, target = image["image"], image["target"]

    def far() -> float:
        module.network.eval()
        with torch.no_grad():
            return float(module.loss(module.network(image), {"image": image, "target": target}))

    first, trainer = far(), r.trainer()
    trainer.fit(module, datamodule=r.loaders)
    assert far() < 0.7 * first
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items()) and not teacher.training
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    kept = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert kept["state_dict"].keys() == {f"network.{k}" for k in module.network.state_dict()}
    of_run.cache_clear()
    learnt = sum(len(g["params"]) for g in kept["optimizer_states"][0]["param_groups"])
    assert learnt == len(list(module.network.parameters()))


def test_a_teacher_that_is_not_there_is_refused(shapes, tmp_path):
    with pytest.raises(ConfigError, match=r"^distill\.teacher\.folder=.*nowhere: there is no such folder"):
        built(["distill=run", f"distill.teacher.folder={tmp_path / 'nowhere'}"], tmp_path, shapes)
