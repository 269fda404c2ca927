"""Sample events for the definition sets under `features/`."""
