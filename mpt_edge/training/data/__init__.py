"""What tasks are trained on: recipes, and the rows they read."""
