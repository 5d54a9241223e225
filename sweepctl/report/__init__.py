"""Tables and laws to terminal and pictures."""
