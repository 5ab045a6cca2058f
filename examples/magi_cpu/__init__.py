"""Official MAGI-1 on a CPU, tiny and random: for trying patches against the real loop on any machine."""
