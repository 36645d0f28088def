"""FSDP2: each rank keeps a piece of every weight, of its gradient, its average and what the optimizer knows of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

BUCKET = 250 * 2**20  # bytes of buffers that go in one message; DDP has this, too


class FSDP2Strategy(DDPStrategy):
    """Lightning's DDP, whose network is not copied to each rank but divided: by torch's `fully_shard`, block by block.

    What is divided is so only within a fit. A checkpoint is one file of whole tensors, as DDP's is: they are gathered
    when it is written and dealt out when it is read, before the fit begins.
    """

    def __init__(self, timeout: timedelta):
        super().__init__(timeout=timeout)

    def configure_ddp(self) -> None:
        """Divides the network, and a loss that learns; the optimizer is made after it, of the pieces."""
        module: Any = self.lightning_module
        names = {parameter: name for name, parameter in module.named_parameters()}
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        module.network.suit(self.root_device.type, channels_last=False)  # FSDP2 takes no other layout
        module.network.unfold()  # a convolution and the BatchNorm behind it may be gathered at different times
        for part in [*blocks(module.network, self.root_device), module.network]:
            fully_shard(part, mesh=mesh)
        if any(parameter.requires_grad for parameter in module.loss.parameters()):
            fully_shard(module.loss, mesh=mesh)
        pieces = dict(module.named_parameters())
        for group in module.groups:
            group["params"] = [pieces[names[parameter]] for parameter in group["params"]]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Before each step the statistics of BatchNorm are those of rank 0, which writes them: as DDP does it."""
        assert self.lightning_module is not None
        if buffers := list(self.lightning_module.buffers()):
            dist._broadcast_coalesced(dist.distributed_c10d._get_default_group(), buffers, BUCKET, 0)
        return super().training_step(*args, **kwargs)

    def on_exception(self, exception: BaseException) -> None:
        """Lets go of the network: torch moves none of which a part is gathered, and its own error would be told instead
        of the one that ended the fit."""
        nothing: Any = None
        self.connect(nothing)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        found: dict[Any, torch.Tensor] = {}  # what is in the checkpoint twice is in the file once

        def gathered(piece: DTensor) -> torch.Tensor:
            place = piece.to_local().untyped_storage()._cdata, piece.shape
            if place not in found:
                whole = piece.full_tensor()  # all ranks take part, in this order
                found[place] = whole.cpu() if self.is_global_zero else whole.new_empty(0)
            return found[place]

        super().save_checkpoint(apply_to_collection(checkpoint, DTensor, gathered), filepath, storage_options)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        for optimizer, said in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for i, known in said["state"].items():
                known |= {name: dealt(value, parameters[i]) for name, value in known.items()}
        super().load_optimizer_state_dict(checkpoint)


def dealt(whole: Any, like: torch.Tensor) -> Any:
    """This rank's piece of a tensor, as `like` is divided; anything else, or of another shape, as it is."""
    if isinstance(like, DTensor) and not isinstance(whole, DTensor) and getattr(whole, "shape", None) == like.shape:
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return whole


def local(piece: torch.Tensor) -> torch.Tensor:
    """What this rank holds of it."""
    return piece.to_local() if isinstance(piece, DTensor) else piece


def blocks(network: Any, device: torch.device) -> list[nn.Module]:
    """The repeated blocks of a network, each of which is gathered when it is called: the largest modules within one
    layer, as timm counts layers, whose class occurs several times. Only those that a forward pass calls: a sequence
    whose children are called one by one is never gathered itself."""
    called: set[nn.Module] = set()
    hooks = [m.register_forward_pre_hook(lambda module, _: called.add(module)) for m in network.backbone.modules()]
    training = network.training
    network.eval()
    with torch.no_grad():
        network(torch.zeros(1, network.spec.channels, *network.spec.size, dtype=torch.uint8, device=device))
    network.train(training)
    for hook in hooks:
        hook.remove()

    def within(module: nn.Module, prefix: str) -> Iterator[nn.Module]:
        layers = {network.layers.get(prefix + name) for name, _ in module.named_parameters()} - {None}
        if len(layers) == 1 and module in called and any(module.children()):
            yield module
        else:
            for name, child in module.named_children():
                yield from within(child, f"{prefix}{name}.")

    found = list(within(network.backbone, ""))
    count = Counter(map(type, found))
    return [module for module in found if count[type(module)] > 1]
