"""Experiments as frozen values, assembled from presets, a file and options of the command line."""

from sparsecore.extras import require

require("cattrs", "tomli_w", extra="cli", purpose="an experiment")
