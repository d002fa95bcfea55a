"""What a step minimises and what validation measures, for each way to answer."""
