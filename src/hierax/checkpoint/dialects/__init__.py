"""The tensor names and configurations of other formats, one file per format."""
