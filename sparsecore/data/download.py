"""Published archives, downloaded once into the user's cache and checked against their published checksums."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs

from sparsecore.errors import InputError


@attrs.frozen
class Origin:
    """Where a data set's archives are published.

    Attributes:
        name: the folder of the cache that keeps them apart from those of other data sets.
        base: the URL of the folder that has the archives, with a slash at the end.
        checksums: ``algorithm:hexadecimal`` of each archive, by file name.
    """

    name: str
    base: str
    checksums: Mapping[str, str]

    def fetch(self, archive: str) -> Path:
        """The archive in the cache (pooch's for "sparsecore"), downloaded if it is not there yet.

        Raises:
            InputError: the download failed, or what came is not the published file.
        """
        import pooch
        import requests

        # pooch's logger writes to stderr whether or not that is a terminal
        pooch.get_logger().setLevel(logging.WARNING)
        url = self.base + archive
        folder = Path(pooch.os_cache("sparsecore")) / self.name
        show = sys.stderr.isatty()
        try:
            return Path(pooch.retrieve(url, self.checksums[archive], archive, folder, progressbar=show))
        except requests.ConnectionError as error:
            raise _failed(url, "there is no connection") from error
        except OSError as error:
            raise _failed(url, str(error)) from error
        except ValueError as error:
            raise _failed(url, "its checksum is not the published one") from error


def _failed(url: str, reason: str) -> InputError:
    return InputError(
        f"{url} could not be downloaded: {reason}; with --data-dir you can name a folder that has the files"
    )
