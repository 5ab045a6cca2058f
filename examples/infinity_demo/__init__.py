"""A small trained Infinity: upstream's unmodified class from a clone, on a CPU, with weights of ours."""
