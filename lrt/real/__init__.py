"""Real pairs: readers of the benchmarks' files, and the rules by which each benchmark is scored."""
