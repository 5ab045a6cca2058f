"""`plan`: the decisions, forwards and FLOPs of a run before it, from its options and the weights of a time embedding.

Without GPU or host; without weights too, where the signal does not need them.
"""
