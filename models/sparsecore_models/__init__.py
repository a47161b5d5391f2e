"""The models that come with sparsecore; each is found by its entry point alone."""
