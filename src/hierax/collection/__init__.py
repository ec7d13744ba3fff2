"""What is on disk of a collection: reading, searching, comparing, drawing. No model is needed."""
