"""The method of SCOPE (arXiv 2604.02979) in plain tensors: no host knowledge, no patching."""
