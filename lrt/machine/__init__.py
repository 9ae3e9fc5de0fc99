"""What a machine can do: what fits, how long it takes, what it costs."""
