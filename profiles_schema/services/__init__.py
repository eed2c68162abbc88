"""What application code calls. Each module imports what it needs; the names are at `profiles_schema`, too."""
