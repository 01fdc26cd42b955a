"""Networks: encoders of observations, multilayer perceptrons, heads and action distributions."""
