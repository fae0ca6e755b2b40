"""Sparse autoencoders: trained on a store, measured in the model, read feature by feature."""
