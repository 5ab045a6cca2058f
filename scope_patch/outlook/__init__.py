"""`plan`: the decisions, forwards and FLOPs of a run before it, from its options and the weights of a time embedding.

Without GPU or host; without weights too, where the signal does not need them. One way through: options (`options`) make
a job (`jobs`, with the `signal` from `weights`), a job is planned and told (`show`).
"""
