"""What the folders of studies and of comparisons have in common: a page, its figures, and its numbers."""

from pathlib import Path

import attrs


def _absolute(path: Path) -> Path:
    return path.absolute()


@attrs.frozen
class ReportFolder:
    """A folder with a report.

    Attributes:
        path: absolute path of the folder.
    """

    path: Path = attrs.field(converter=_absolute)

    @property
    def report(self) -> Path:
        """The page, as HTML."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """The figures of the page, as SVG and as PNG files."""
        return self.path / "figures"

    @property
    def results(self) -> Path:
        """The numbers of the page, as JSON."""
        return self.path / "results.json"

    @property
    def manifest(self) -> Path:
        """What the folder was created for, as JSON, by which later changes are noticed."""
        return self.path / "manifest.json"
