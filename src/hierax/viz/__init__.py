"""Pictures of feature maps, attention, reconstructions; sheets and animations."""
