"""What runs on a processor without torch's operators: compiled by numba at first use, kept on disk."""
