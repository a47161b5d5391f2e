"""A run: an experiment carried out in a folder of its own, resumable at any moment."""

from sparsecore.extras import require

require("safetensors", extra="cli", purpose="a run")
