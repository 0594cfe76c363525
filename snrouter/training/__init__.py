"""Trains small experts, classifiers and gates from recipes."""

from snrouter.training.networks import train
from snrouter.training.recipes import Trained, train_recipe

__all__ = ["Trained", "train", "train_recipe"]
