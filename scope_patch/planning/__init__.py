"""`plan`: the decisions, forwards and FLOPs of a run from its options alone, without weights, GPU or host."""
