"""The folder of a comparison of strategies: its definition, and two studies for each network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from sparsecore.errors import InputError
from sparsecore.experiment.assembly import differences
from sparsecore.formats import COMPARISON
from sparsecore.run.files import new_folder, read_regular_toml
from sparsecore.run.folder import FolderExistsError, is_occupied
from sparsecore.study.folder import StudyFolder
from sparsecore.study.report_folder import ReportFolder
from sparsecore.study.strategy_comparison.definition import Network, StrategyComparison


@attrs.frozen
class ComparisonFolder(ReportFolder):
    """The folder of a comparison.

    Attributes:
        path: absolute path of the folder.
    """

    @property
    def definition(self) -> Path:
        """The definition of the comparison, as TOML."""
        return self.path / "strategies.toml"

    @property
    def tables(self) -> Path:
        """The tables of the page, as Markdown."""
        return self.path / "tables.md"

    def tuning(self, network: Network) -> StudyFolder:
        """Return the folder of the study that tunes all arms on a network."""
        return StudyFolder(self.path / network.name / "tuning")

    def trials(self, network: Network) -> StudyFolder:
        """Return the folder of the study of the trials on a network, which is created when all arms are tuned."""
        return StudyFolder(self.path / network.name / "trials")

    def exists(self) -> bool:
        """Return whether there is a comparison in the folder."""
        return self.definition.exists()

    def check_free(self) -> None:
        """Check that a comparison can be created in the folder.

        Raises:
            FolderExistsError: there is a file or a folder that is not empty at the path.
        """
        if is_occupied(self.path):
            raise self._exists()

    def create(self, comparison: StrategyComparison) -> "ComparisonFolder":
        """Create the folder with the definition; its studies are created when they begin.

        Returns:
            The folder itself.

        Raises:
            FolderExistsError: there is a file or a folder that is not empty at the path.
            InputError: the folder cannot be created.
        """
        self.check_free()
        contents = {
            self.definition.name: tomli_w.dumps(COMPARISON.put(comparison.tables())).encode(),
            self.manifest.name: json.dumps(comparison.tables(), indent=1).encode(),
        }
        try:
            new_folder(self.path, contents)
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            raise InputError(f"the comparison {self.path} cannot be created: {error.strerror}") from error
        return self

    def _exists(self) -> FolderExistsError:
        return FolderExistsError(f"the comparison {self.path} exists; give another --out, or --resume to continue it")

    def read(self) -> StrategyComparison:
        """Read the comparison of the folder.

        Raises:
            InputError: the folder has none, or its file is damaged or has changed since it was created.
        """
        if not self.exists():
            raise InputError(f"{self.path} is not the folder of a comparison: it has no {self.definition.name}")
        try:
            comparison = StrategyComparison.of(
                COMPARISON.take(read_regular_toml(self.definition), f"the file {self.definition}")
            )
            begun = json.loads(self.manifest.read_text("utf-8"))
            changes = differences(_by_name(begun), _by_name(json.loads(json.dumps(comparison.tables()))))
        except InputError as error:
            raise InputError(f"the comparison {self.path} cannot be read: {error}") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{self.manifest} is damaged: {error}") from error
        if changes:
            raise InputError(
                f"{self.definition} has changed since the comparison was begun: {'; '.join(changes)}. Finished runs "
                "have other settings; restore the file, or start another comparison"
            )
        return comparison


def _by_name(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tables of a comparison with its networks and arms by their names, to name differences."""
    lists = {kind: {one["name"]: one for one in tables[kind]} for kind in ("network", "arm")}
    return {**tables, **lists}
