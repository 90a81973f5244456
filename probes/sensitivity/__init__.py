"""Sensitivity: gradients of single examples, to weights and to inputs, and the loss around them."""
