"""What is told of a result: on the screen, as a document, and as plots."""
