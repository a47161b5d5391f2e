"""What makes a run this run and no other: experiment, data, strategies, the code of plugins in files, and its start.

A checkpoint keeps these fingerprints, and a run goes on only where they are the same.
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
    """Processor, cores, system, and the versions of what computes."""
    torch = sys.modules.get("torch")
    told = [
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        f"Python {platform.python_version()}",
        f"sparsecore {sparsecore.__version__}",
        f"NumPy {np.__version__}",
        *([f"PyTorch {torch.__version__}"] if torch else []),
    ]
    return "; ".join(told)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def identity(setup: Setup) -> dict[str, str]:
    """A SHA-256 of each of them, by what it is of."""
    known = {
        "experiment": experiment_fingerprint(setup.experiment.tables()),
        "data": fingerprint(setup.images),
        "plugin code": _of_plugin_files(setup.experiment),
        "strategies": _of_plain_strategies(setup.experiment),
    }
    return known if setup.source is None else {**known, "start": setup.source.sha256()}


def _of_plain_strategies(experiment: Experiment) -> str:
    """Of the options of strategies that are no attrs classes; the tables of the experiment do not hold those."""
    plain = {
        str(index): one.plugin for index, one in enumerate(experiment.strategies) if not attrs.has(type(one.plugin))
    }
    return hashlib.sha256(json.dumps(describe_strategies(plain), sort_keys=True).encode()).hexdigest()


def fingerprint(images: Images) -> str:
    """A SHA-256 of the data: what :func:`identity` keeps of them under "data"."""
    digest = hashlib.sha256(str(images.classes).encode())
    for split in (images.train, images.test):
        digest.update(str(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels).data)
    return digest.hexdigest()


def _of_plugin_files(experiment: Experiment) -> str:
    chosen = (experiment.model, experiment.dataset, experiment.backend, *experiment.strategies)
    digest = hashlib.sha256()
    for file in filter(None, (file_of(one.name) for one in chosen)):
        digest.update(file.read_bytes())
    return digest.hexdigest()
