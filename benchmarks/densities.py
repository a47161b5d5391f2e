"""How dense each tensor is: read from a run, kept in a small file, and drawn again for a measurement.

    sparsecore train --strategy dpr --sparsity 0.9 --out RUN
    python benchmarks/densities.py RUN --out FILE

The file has the densities of the run's last topology; of where in a tensor the weights lie it says nothing, and a
topology that is made of it has them anywhere.
"""

import argparse
import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np

from sparsecore.engine.arrays import Arrays
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.run.folder import RunFolder
from sparsecore.run.replay import replay


@attrs.frozen
class Densities:
    """Of the sparse tensors of a network.

    Attributes:
        name: of what led there, for a table.
        sparsity: of the whole network.
        run: what was trained, in words.
        tensors: the share of the positions that are active, in (0, 1], by name.
    """

    name: str
    sparsity: float
    run: str
    tensors: Mapping[str, float]

    @classmethod
    def of_run(cls, folder: RunFolder) -> "Densities":
        """Those that a run has come to.

        Raises:
            InputError: this is no run folder, or it is damaged.
        """
        tables = folder.read_tables()
        stack = "+".join(strategy["name"] for strategy in tables["strategy"])
        (last,) = deque(replay(folder), maxlen=1)
        updates = len(folder.reallocations.read_text().splitlines())
        data, epochs = tables["data"], tables["training"]["epochs"]
        images = f"{data['limit']:,} images of {data['name']}" if data.get("limit") else data["name"]
        trained = f"{tables['model']['name']} on {images}, {epochs} epochs"
        tensors = (last.counts / np.asarray(last.layout.sizes)).round(5)
        named = dict(zip(last.layout.names, tensors.tolist(), strict=True))
        return cls(stack, round(last.sparsity, 4), f"{trained}, {updates} updates", named)

    @classmethod
    def read(cls, path: Path) -> "Densities":
        """From a file.

        Raises:
            InputError: the file does not hold densities.
        """
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{path} is no file of densities, as benchmarks/densities.py makes them ({error})"
            ) from error

    def write(self, path: Path) -> None:
        """To a file, for :meth:`read`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(attrs.asdict(self), indent=2) + "\n", "utf-8")

    def topology(self, layout: Layout, arrays: Arrays) -> Topology:
        """Weights anywhere, as many in each tensor as it had.

        Raises:
            InputError: the densities are of another network.
        """
        if set(self.tensors) != set(layout.names):
            raise InputError(f"the densities of {self.run} are not of a network with the tensors {layout.names}")
        rng = np.random.default_rng(0)
        shares = [self.tensors[name] for name in layout.names]
        positions = [
            offset + np.sort(rng.choice(size, max(1, round(share * size)), replace=False))
            for offset, size, share in zip(layout.offsets, layout.sizes, shares, strict=False)
        ]
        return Topology.of(layout, np.concatenate(positions).astype(layout.position_dtype), arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    options = parser.parse_args()
    Densities.of_run(RunFolder(options.run)).write(options.out)


if __name__ == "__main__":
    main()
