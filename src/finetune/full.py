"""Everything trains at the optimizer's learning rate."""

from src.finetune.policy import Place, Policy


class Full(Policy):
    def trains(self, place: Place) -> bool:
        return True
