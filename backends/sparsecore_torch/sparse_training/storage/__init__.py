"""Where the weights of somebody's own model lie: dense under masks, compact, or spread over ranks."""
