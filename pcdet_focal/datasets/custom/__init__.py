"""Your own scans: numpy arrays, text labels, lists of frames. docs/custom_data.md goes through it step by step."""
