"""Several ranks: how they exchange reports, check that they agree, and form a process group."""
