"""What a forward of a known network costs, in FLOPs, from its dimensions alone. Imports neither torch nor a host.

Counted as `torch.utils.flop_counter` counts: matrix products, convolutions and attention, two FLOPs a multiply-add;
norms, activations, rotary embeddings and modulation are left out.
"""
