r"""The atom-wise dense layer, with the initialisation that all of the network shares."""

from functools import partial

from torch_geometric.nn.dense.linear import Linear

#: Dense layer with Glorot-uniform weights and zero biases; -1 inputs are inferred.
Dense = partial(Linear, weight_initializer="glorot", bias_initializer="zeros")
