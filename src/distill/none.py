"""Nobody teaches: the loss as it is."""

from typing import Any


def none(loss: Any, **known: Any) -> Any:
    return loss
