"""Files on disk: bundles, manifests, shared prompts and tasks; and the prompt algebra."""
