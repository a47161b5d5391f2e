"""An experiment as a frozen value, and how it is put together from presets, a file and the command line."""

from sparsecore.extras import require

require("cattrs", "tomli_w", extra="cli", purpose="an experiment")
