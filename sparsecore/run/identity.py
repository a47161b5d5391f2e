"""The identity of a run: fingerprints of its experiment, data, strategies, plugin files and warm start.

A checkpoint keeps these fingerprints, and a run is resumed only where they are the same.
"""

import hashlib
import json
import os
import platform
import sys
from functools import cache
from pathlib import Path

import attrs
import numpy as np

import sparsecore
from sparsecore.data.images import Images
from sparsecore.experiment.assembly import experiment_fingerprint
from sparsecore.experiment.experiment import Experiment
from sparsecore.plugins.description import describe_strategies
from sparsecore.plugins.discovery import file_of
from sparsecore.run.setup import Setup


@cache
def machine() -> str:
    """Describe the machine: processor, cores, system, and the versions of the libraries that compute."""
    libraries = {"PyTorch": sys.modules.get("torch"), "JAX": sys.modules.get("jax")}
    parts = [
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        f"Python {platform.python_version()}",
        f"sparsecore {sparsecore.__version__}",
        f"NumPy {np.__version__}",
        *(f"{name} {library.__version__}" for name, library in libraries.items() if library),
    ]
    return "; ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def identity(setup: Setup) -> dict[str, str]:
    """Return the fingerprints of a run.

    Args:
        setup: the run before its first step.

    Returns:
        SHA-256 in hexadecimal of 'experiment' (without its paths), 'data', 'plugin code' (files that plugins were
        selected by), 'strategies' (options of those that are no attrs classes) and, after a warm start, 'start'.
    """
    known = {
        "experiment": experiment_fingerprint(setup.experiment.tables()),
        "data": data_fingerprint(setup.images),
        "plugin code": _of_plugin_files(setup.experiment),
        "strategies": _of_plain_strategies(setup.experiment),
    }
    return known if setup.source is None else {**known, "start": setup.source.sha256()}


def _of_plain_strategies(experiment: Experiment) -> str:
    """A fingerprint of strategies that are no attrs classes, whose options the experiment's tables do not contain."""
    plain = {
        str(index): one.plugin for index, one in enumerate(experiment.strategies) if not attrs.has(type(one.plugin))
    }
    return hashlib.sha256(json.dumps(describe_strategies(plain), sort_keys=True).encode()).hexdigest()


def data_fingerprint(images: Images) -> str:
    """Return the fingerprint of a data set, which :func:`identity` has under "data".

    Args:
        images: the images that are trained and tested on, after some were held out or left out.

    Returns:
        The SHA-256 of the classes, shapes, images and labels of both splits, 64 hexadecimal digits.
    """
    digest = hashlib.sha256(str(images.classes).encode())
    for split in (images.train, images.test):
        split.identify(digest.update)
    return digest.hexdigest()


def _of_plugin_files(experiment: Experiment) -> str:
    chosen = (experiment.model, experiment.dataset, experiment.backend, *experiment.strategies)
    digest = hashlib.sha256()
    # what wraps an object of another library may have chosen more objects of files, such as transforms
    names = [name for one in chosen for name in (one.name, *getattr(one.plugin, "selections", ()))]
    for file in filter(None, map(file_of, names)):
        digest.update(file.read_bytes())
    return digest.hexdigest()
