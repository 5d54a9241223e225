"""What a GPU has to show: `python -m benchmarks.gpu`. Each line is a module with a function `rows`."""
