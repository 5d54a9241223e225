"""What single laws are made of, and what a few of them share."""
