"""The tasks of one model: labels, feature maps, reconstructions. The command line is a thin layer over it."""
