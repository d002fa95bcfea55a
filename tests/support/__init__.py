"""What several test modules need: tiny models, tasks on them, and what a command's result must look like."""
