"""The demonstration: the photos and the gallery that are part of hierax, and the sheet that `hierax demo` draws."""
