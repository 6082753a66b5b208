"""What users get for their tests: the fixtures and the marker of ``zerver.testing.plugin``, and their types."""
