"""A comparison of strategies on equal terms: tuned with the same number of runs, tested with several trials each."""
