"""What a step minimizes and what validation measures, for each way to answer."""
