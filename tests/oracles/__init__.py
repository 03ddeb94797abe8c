"""Second opinions: models that share no code with the kernels they judge."""
