"""What ``sparsify`` of every framework shares: settings by group, starts, state dicts and summaries."""
