"""Text, contrasts, chat templates and packing."""
