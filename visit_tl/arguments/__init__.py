"""What public calls take: one vocabulary of arguments, checked once, where they come in."""
