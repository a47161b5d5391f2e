"""Studies: training methods compared at several sparsities with several seeds, in a folder of runs."""
