"""What a training takes, told before it runs: parameters, memory, tokens and time."""
