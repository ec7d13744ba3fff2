"""The names that tensors have in the formats of others, one file per format."""
