"""What cloud and device promise each other: packages, budgets, signatures, manifests, errors. stdlib and numpy only."""
