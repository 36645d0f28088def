"""The LightningModule that trains: keyed randomness, closed-form schedule, metrics exact on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import pytorch_lightning as pl
import torch
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR

from src import rng, world
from src.checkpoint import NonFinite, non_finite
from src.contracts import ConfigError, Task
from src.predicting import kept
from src.replan import Plan, read
from src.sam import SAM

Batch = dict[str, torch.Tensor]
SIZES = 64  # of batches that are compiled, with and without gradients; torch would give up after 8


@final
class Module(pl.LightningModule):
    """Trains `network` on `task`.

    loss: (logits, batch) -> scalar. groups: network -> optimizer groups, and freezes the rest. optimizer: groups ->
    Optimizer. schedule: total updates -> (update -> factor on each group's learning rate). mix: batch -> batch, in
    training alone. penalty: the network at its starting weights -> (network -> what is added to the loss). clip: norm,
    value or agc, by trainer.gradient_clip_val. compiler: the backend of torch.compile for the network in a fit.
    progressive: (batch, epoch) -> batch of other sizes, before it is mixed. adversary: (images, where the loss rises,
    chance) -> worse images. epochs: that are planned.
    """

    def __init__(
        self,
        network: Any,
        task: Task,
        loss: nn.Module,
        groups: Callable[[nn.Module], list[dict[str, Any]]],
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        schedule: Callable[..., Callable[[float], float]],
        seed: int,
        facts: dict[str, Any],
        mix: Any = None,
        penalty: Callable[[Any], Callable[[Any], torch.Tensor] | None] = lambda network: None,
        clip: str = "norm",
        compiler: str | None = None,
        progressive: Any = None,
        adversary: Callable[..., torch.Tensor] | None = None,
        epochs: int | None = None,
    ):
        super().__init__()
        self.network, self.task, self.loss, self.seed = network, task, loss, seed
        self.facts = facts  # plain data from which the network can be rebuilt; in the checkpoint
        self.groups = groups(network)
        self.optimizer, self.schedule = optimizer, schedule
        self.mix, self.penalty, self.clip, self.compiler = mix, penalty(network), clip, compiler
        self.progressive, self.adversary, self.epochs = progressive, adversary, epochs or 0
        self.place = (0, 0, 0)  # epoch, batch, rank
        self.passes = getattr(getattr(optimizer, "func", optimizer), "passes", 1)  # over each batch
        self.repeats = False  # whether an optimizer looks at a batch for the second time
        self.plan: Plan | None = None  # of a resumed fit, until it is known how many updates it shall have
        self.pace: Callable[[float], float] = lambda step: step  # update -> place in the schedule; deadlines hurry it
        self.val_metrics = task.metrics().clone(prefix="val/")
        self.train_loss = {"sum": 0.0, "images": 0.0}  # since the start of the epoch; in the checkpoint

    def configure_optimizers(self) -> Any:
        optimizer = self.stepper(self.groups)
        ends = int(self.trainer.estimated_stepping_batches)
        self.plan = self.plan.to(ends, *self.reached) if self.plan else Plan(ends, ends)
        self.pace = self.plan
        factor = self.schedule(total=self.plan.total)
        # behind a lambda, since LambdaLR would put the attributes of a callable object into the checkpoint
        return [optimizer], [
            {"scheduler": LambdaLR(optimizer, lambda step: factor(self.pace(step))), "interval": "step"}
        ]

    def stepper(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        optimizer = self.optimizer(groups)
        if isinstance(optimizer, SAM):
            optimizer.bind(self.network, self.again)
        return optimizer

    @contextmanager
    def again(self) -> Iterator[None]:
        """The same batch at other weights, or with other pixels: with the same dropout; nothing is counted, and no
        statistics move."""
        still = [m for m in self.network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        before = self.repeats, self.loss.training
        self._seed()
        self.repeats = True
        self.loss.eval()
        for norm in still:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in still:
                norm.track_running_stats = True
            self.repeats, training = before
            self.loss.train(training)

    def on_fit_start(self) -> None:
        """In place, so that the names of the weights stay. Each size of a batch has a graph of its own: with one for
        all, what is computed would depend on which size came first, and so on where a run was resumed."""
        if self.compiler:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SIZES)
            self.network.compile(backend=self.compiler, dynamic=False)

    def on_train_start(self) -> None:
        self.network.train()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Dropout and drop-path depend on (seed, epoch, batch, rank), not on what was drawn before."""
        self.place = self.current_epoch, batch_idx, self.global_rank
        self._seed()

    def _seed(self) -> None:
        rng.seed(self.seed, "step", *self.place)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = self.objective(self.mixed(batch))
        if self.repeats:
            return loss
        images = len(batch["image"])
        self.train_loss["sum"] += loss.detach() * images
        self.train_loss["images"] += images
        if (batch_idx + 1) % self.trainer.log_every_n_steps == 0:
            self._record({"train/loss_step": float(loss.detach())})
        return loss * self._share(batch_idx)

    def _share(self, batch_idx: int) -> float:
        """What Lightning divides the loss by, over the number of batches that this update really has: the last one of
        an epoch may add up fewer, and all images of an update shall count the same."""
        wanted = self.trainer.accumulate_grad_batches
        left = self.trainer.num_training_batches - batch_idx // wanted * wanted
        return wanted / min(wanted, left)

    def mixed(self, batch: Batch) -> Batch:
        """Which images are mixed, and how, depends on (seed, epoch, batch, rank), as dropout does; how large they are,
        and whether any are mixed, on how much of the schedule is done."""
        batch = self.progressive(batch, self.epoch()) if self.progressive else batch
        if self.mix is None or not self.mix.on(self.epoch(), self.epochs):
            return batch
        return self.mix(batch, self.task.outputs, np.random.default_rng(rng.key(self.seed, "mix", *self.place)))

    def epoch(self) -> int:
        """Which of the planned epochs, from 0, the schedule is in: the one that is trained, but where a deadline
        hurries it, or fewer updates were planned than fill these epochs."""
        assert self.plan is not None
        part = self.pace(self.trainer.global_step) * self.epochs / self.plan.total
        return min(int(part + 1e-9), self.epochs - 1)

    def objective(self, batch: Batch) -> torch.Tensor:
        """What is minimised."""
        loss = self.error(batch if self.adversary is None else self.attacked(batch))
        return loss if self.penalty is None else loss + self.penalty(self.network)

    def error(self, batch: Batch) -> torch.Tensor:
        """The loss; numbers go into it without their unit."""
        logits = self.network.standard(self.network(batch["image"]))
        return self.loss(logits, {**batch, "target": self.network.standard(batch["target"])})

    def attacked(self, batch: Batch) -> Batch:
        """With worse images, by (seed, epoch, batch, rank); what is then learnt from them has the dropout of a plain
        step. Only gradients of images are taken, so that other ranks need not be waited for."""

        def slope(image: torch.Tensor) -> torch.Tensor:
            image = image.detach().requires_grad_()
            return torch.autograd.grad(self.error({**batch, "image": image}), image)[0]

        assert self.adversary is not None
        draw = torch.Generator().manual_seed(rng.key(self.seed, "adversary", *self.place))
        with self.again():
            image = self.adversary(batch["image"], slope, draw)
        self._seed()
        return {**batch, "image": image}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """The mean loss of the epoch, before its validation, so that both are there when the epoch ends."""
        if not self.trainer.is_last_batch:
            return
        totals = torch.tensor([float(self.train_loss["sum"]), self.train_loss["images"]], dtype=torch.float32)
        total, images = self.trainer.strategy.reduce(totals.to(self.device), reduce_op="sum").tolist()
        self.train_loss = {"sum": 0.0, "images": 0.0}
        found = {"train/loss": total / max(images, 1)}
        self.log_dict(found, logger=False, on_step=True, on_epoch=False)
        self._record(found)

    def _record(self, found: dict[str, float]) -> None:
        """To the loggers at once. Through `self.log` they would get it after the checkpoint of the same step was
        written, and a run killed in between would lose it."""
        for logger in self.loggers:
            logger.log_metrics({"epoch": self.current_epoch, **found}, step=self.global_step)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        valid, logits = batch["valid"], self.network(batch["image"])
        seen, target = kept(self.task, logits[valid].float(), batch["target"][valid])
        for metric in self.val_metrics.values():
            if len(target) or getattr(metric, "takes_nothing", False):  # torchmetrics' own take no empty update
                metric.update(seen, target)

    def on_validation_epoch_end(self) -> None:
        found = self.val_metrics.compute()
        self.val_metrics.reset()
        self.log_dict(found, logger=False, sync_dist=True)  # equal on all ranks already; the flag spares a warning
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._record({k: float(v) for k, v in found.items()})

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """As Lightning does it, but also under bf16 with a fused optimizer, which Lightning 2.6 refuses to clip. agc:
        of each unit but the head's, in proportion to its weights (Brock et al. 2021, arXiv:2102.06171, eq. 3)."""
        if not gradient_clip_val or getattr(optimizer, "climbing", False):
            return
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        if self.clip == "agc":
            body = set(self.network.backbone.parameters())
            adaptive_clip_grad([p for p in parameters if p in body], gradient_clip_val)
        elif self.clip == "value":
            nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        else:
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self.plan is not None
        checkpoint["model"] = self.facts
        checkpoint["plan"] = {**self.plan.plain(), "place": float(self.pace(self.trainer.global_step))}
        found = {k: float(v) for k, v in self.train_loss.items()}, non_finite(checkpoint["state_dict"])
        losses, names = zip(*world.gather(found), strict=True)
        if name := next(filter(None, names), ""):  # on all ranks: rank 0, which writes, may go on without this fit
            raise NonFinite(
                f"{name} is not finite at step {checkpoint['global_step']}; this state is not saved.\nThe last good "
                "checkpoint is kept. Lower optimizer.lr, set trainer.gradient_clip_val=1.0, or look with debug=anomaly."
            )
        checkpoint["train_loss"] = list(losses)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        was = len(checkpoint["train_loss"])
        if was != self.trainer.world_size:
            raise ConfigError(
                f"The run was trained by {was} processes and would go on with {self.trainer.world_size}: "
                "other batches, another result.\n"
                f"Resume it with {was}, or start a new run from its weights with init_from."
            )
        self.train_loss = dict(checkpoint["train_loss"][self.global_rank])
        if said := checkpoint.get("plan"):
            self.plan, self.reached = read(said), (checkpoint["global_step"], said["place"])
