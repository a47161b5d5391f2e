"""Building blocks of strategies: ranking, N:M groups, gradual pruning schedules, dense momentum, fixed signs."""
