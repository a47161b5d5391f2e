"""A run: an experiment that is trained in a folder of its own and can be resumed after any interruption."""

from sparsecore.extras import require

require("safetensors", extra="cli", purpose="a run")
