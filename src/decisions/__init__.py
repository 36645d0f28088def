"""What is fitted on held-out images once the model is chosen, shipped with it, and said of each image: calibrated
probabilities, sets that hold the truth with a stated frequency, a decision, and whether an image is unlike the training
images. Pure functions on tensors; `saved` is plain data from model.json and, under `tensors`, what is too large for it.
"""

from src.decisions.columns import apply, load, needs_features, save, scaled
from src.decisions.fit import FEW, Images, carried, fit
from src.decisions.measures import measure
from src.decisions.unfamiliar import FEATURES
from src.decisions.words import KINDS, suits

__all__ = [
    "FEATURES",
    "FEW",
    "KINDS",
    "Images",
    "apply",
    "carried",
    "fit",
    "load",
    "measure",
    "needs_features",
    "save",
    "scaled",
    "suits",
]
