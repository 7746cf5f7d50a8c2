"""What is marked in pictures, whatever the format that says it."""
