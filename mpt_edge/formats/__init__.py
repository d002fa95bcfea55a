"""What lies on disk: bundles, their manifest, shared prompts and tasks; and the prompt algebra."""
