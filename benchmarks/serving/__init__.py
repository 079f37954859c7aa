"""What a running server does under load."""
