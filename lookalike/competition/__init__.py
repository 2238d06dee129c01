"""Holding a competition: a package for its participants, and what the organizer keeps."""
