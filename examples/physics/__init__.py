"""Films of simulated bodies, with captions, and the weights of the two testbeds trained on them."""
