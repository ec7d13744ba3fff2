"""The architecture, from configuration to task models. It knows no files and no devices."""
