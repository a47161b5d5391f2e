"""The strategies that come with sparsecore, one in each module; each is found by its entry point alone."""
