"""hierax's models as classes of other libraries. Each module here is imported by the user, never by hierax itself."""
