"""Features: which of them a network uses, and how sparse and of what rank its activations are."""
