"""Only the head trains (a linear probe by gradient descent); the backbone is frozen, statistics included."""

from src.finetune.policy import Place, Policy


class Head(Policy):
    def trains(self, place: Place) -> bool:
        return place.head
