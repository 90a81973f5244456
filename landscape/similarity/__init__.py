"""Similarity: how alike two networks are, in their features, their weights and their answers.

`cka` compares features and `activations` records them, `distances` compares weights, `predictions`
answers; `comparing` does all of it in one pass over the data, and `comparison` is what comes back.
"""
