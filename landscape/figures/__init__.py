"""One function, one figure: a result in, a matplotlib Figure out."""
