"""The checks of `verify`. Each checks one part of the system and says what to do if it does not work."""
