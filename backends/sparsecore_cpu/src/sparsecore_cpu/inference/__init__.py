"""Prediction with a trained network, from its values and positions."""

from sparsecore_cpu.inference.network import TrainedNetwork
from sparsecore_cpu.inference.predictor import Predictor

__all__ = ["Predictor", "TrainedNetwork"]
