"""Observers of a training: what they receive, what is measured for them, and adapters to experiment trackers."""

from sparsecore.observers.csv import CsvLog
from sparsecore.observers.metric_log import MetricLog
from sparsecore.observers.mlflow import MlflowLog
from sparsecore.observers.observer import ObservationStart, ObservedUpdate, Observer
from sparsecore.observers.tensorboard import TensorBoardLog
from sparsecore.observers.trackio import TrackioLog
from sparsecore.observers.wandb import WandbLog

__all__ = [
    "CsvLog",
    "MetricLog",
    "MlflowLog",
    "ObservationStart",
    "ObservedUpdate",
    "Observer",
    "TensorBoardLog",
    "TrackioLog",
    "WandbLog",
]
