"""What a long run needs besides the method: see README.md here."""
