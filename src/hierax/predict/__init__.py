"""What one model computes for images: labels, feature maps, reconstructions. The command line is a thin
layer on top.
"""
