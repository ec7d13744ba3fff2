"""The demonstration: the photos and the gallery that come with hierax, and the sheet that `hierax demo` draws."""
