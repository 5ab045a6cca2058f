"""Finding hosts and attaching to them."""
