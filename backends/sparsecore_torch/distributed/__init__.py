"""Several ranks: what each does of a step, and how they make sure that they agree."""
