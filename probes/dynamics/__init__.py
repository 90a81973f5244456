"""Training dynamics: what single examples did at every presentation, and scores of it."""
