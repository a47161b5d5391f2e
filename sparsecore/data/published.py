"""Whether images are those that were published under a data set's name, whatever their order and the files they are in.

Two copies of a data set are told apart by mean and standard deviation of each channel over the training images. They
are sums over all pixels, exact to the last digit: recoded pixels do not keep them.
"""

from collections.abc import Mapping
from types import MappingProxyType

import attrs
import numpy as np

from sparsecore.data.images import Images


@attrs.frozen
class Moments:
    """Mean and standard deviation of each channel over the training images, in units of 0..255."""

    examples: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def match(self, images: Images) -> bool:
        """Whether these are the images."""
        return len(images.train) == self.examples and all(
            len(published) == len(found) and np.allclose(published, found, rtol=1e-11, atol=0)
            for published, found in ((self.mean, images.mean), (self.std, images.std))
        )


PUBLISHED: Mapping[str, Moments] = MappingProxyType(
    {
        "cifar10": Moments(
            50_000,
            (125.306918046875, 122.950394140625, 113.86538318359375),
            (62.993219278136884, 62.08870764001421, 66.70489964063091),
        ),
        "mnist": Moments(60_000, (33.318421449829934,), (78.56748998339798,)),
    }
)
"""Those of the data sets that others have reported accuracies on, as widely quoted."""
