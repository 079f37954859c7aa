"""The stages of the cloud as plain classes, and what gathers and chains their batches. Knows nothing of HTTP."""
