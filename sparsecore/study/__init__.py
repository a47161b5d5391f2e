"""A study: arms × sparsities × trials of one experiment, carried out in a folder of runs, resumable at any time."""
