"""What a report needs: see README.md here."""
