"""Training data: recipes, and the examples that they name."""
