"""What one model computes for images: labels, masks, feature maps, reconstructions. The command line is a thin
layer on top.
"""
